"""Whoever catches Ctrl-C hears of every order to stop, also where a shell has SIGINT ignored."""

import signal

import pytest

from anneal.plan.interrupts import interrupt


@pytest.fixture
def sigint():
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
def test_nobody_catches_it(sigint, handler):
    sigint(handler)
    with pytest.raises(KeyboardInterrupt):
        interrupt(None)


def test_a_launcher_catches_it(sigint):
    heard = []
    sigint(lambda number, frame: heard.append(number))
    interrupt(None)
    assert heard == [signal.SIGINT]
