"""Why a process died."""

import pytest

from anneal.launch.process import cause_of_death
from anneal.plan.memory import count_oom_kills


class TestCauses:
    @pytest.mark.parametrize(
        ("code", "oom_kills", "kind", "words"),
        [
            (-9, 1, "out_of_memory", "out-of-memory killer"),
            (137, 1, "out_of_memory", "out-of-memory killer"),
            (-9, 0, "killed", "SIGKILL"),
            (-11, 3, "killed", "SIGSEGV"),
            (143, 0, "killed", "SIGTERM"),
            (75, 0, "preempted", "told to stop"),
            (1, 0, "killed", "exited with 1"),
        ],
    )
    def test_cause_of_death(self, code, oom_kills, kind, words):
        found, message = cause_of_death(code, oom_kills=oom_kills)
        assert found == kind
        assert words in message

    def test_counts_oom_kills_where_the_kernel_keeps_them(self, tmp_path):
        def put(path, text):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

        assert count_oom_kills(tmp_path) == 0
        put("proc/vmstat", "nr_free_pages 12\noom_kill 7\n")
        assert count_oom_kills(tmp_path) == 7
        put("proc/self/cgroup", "4:memory:/box/1\n9:name=systemd:/\n")
        put("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\noom_kill 5\n")
        assert count_oom_kills(tmp_path) == 5
        put("sys/fs/cgroup/memory/box/1/memory.oom_control", "under_oom 0\noom_kill 4\n")
        assert count_oom_kills(tmp_path) == 4
        put("proc/self/cgroup", "0::/box.slice\n")
        put("sys/fs/cgroup/box.slice/memory.events", "low 0\noom 9\noom_kill 3\n")
        assert count_oom_kills(tmp_path) == 3

    def test_this_machine_is_read_without_error(self):
        assert count_oom_kills() >= 0
