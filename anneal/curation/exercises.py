"""Exercises: documented functions rewritten into tasks in words with worked solutions.

A synthetic source without a language model. The abstract syntax of a Python document gives, for
each documented function, its signature, the sentences of its docstring and its body. They are told
again in another order and form: the task first, in words, then the solution and sometimes what to
notice about it. Six forms, chosen by hash of the function, and a phrasing per form, keep one form
from being all there is to learn; even so this is template text, and its curve should flatten as
template text does.

Nothing is invented: every fact in an exercise is in the function it came from. The solution is the
function's own source, without its docstring.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from anneal.curation.chain import Context, Tally
from anneal.curation.steps import WriteExercises
from anneal.sources.documents import Document

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one function, in the pieces that exercises are told with."""

    name: str
    owner: str
    """Class it is a method of, or empty."""
    task: str
    """Summary as an imperative without a full stop: `return the mean of x`."""
    details: str
    """Further sentences of the docstring, or empty."""
    arguments: tuple[tuple[str, str, str], ...]
    """(name, annotation or empty, default or empty), without self and cls."""
    returns: str
    """Annotation of the result, or empty."""
    solution: str
    """Source without the docstring."""
    remarks: tuple[str, ...]
    """What the code does, read off its syntax."""


def write_exercises(
    stream: Iterable[Document], step: WriteExercises, context: Context, tally: Tally
) -> Iterator[Document]:
    """Streams one document per exercise; its group, licence, language and identifier are those of
    the document it comes from."""
    for document in stream:
        found = sorted(
            (_hash(f"{step.seed}/{document.id}/{facts.owner}.{facts.name}"), number, facts)
            for number, facts in enumerate(functions(document.text, step))
        )
        if not found:
            tally.drop(document, "no documented function")
        for key, number, facts in found[: step.per_document]:
            form = FORMS[key % len(FORMS)]
            text = form(facts, key // len(FORMS)).strip() + "\n"
            identity = f"{document.id}#{number}"
            origin = f"{document.origin}: {facts.name}"
            yield replace(document, id=identity, text=text, origin=origin)


def functions(text: str, step: WriteExercises) -> Iterator[Facts]:
    """The functions and methods of a module that make a good exercise, in source order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return
    lines = text.split("\n")
    for owner, node in _defined(tree):
        docstring = ast.get_docstring(node)
        if docstring is None or (node.name.startswith("__") and node.name != "__init__"):
            continue
        body = node.body[1:]
        if not body or isinstance(body[0], ast.Pass | ast.Raise) or _is_ellipsis(body[0]):
            continue
        count = (node.end_lineno or 0) - body[0].lineno + 1
        sentences = _sentences(docstring)
        task = _imperative(sentences[0]) if sentences else ""
        if not step.min_lines <= count <= step.max_lines or not task:
            continue
        yield Facts(
            name=node.name,
            owner=owner,
            task=task,
            details=" ".join(sentences[1:4]),
            arguments=_arguments(node.args),
            returns=ast.unparse(node.returns) if node.returns else "",
            solution=_solution(lines, node),
            remarks=_remarks(node),
        )


def _defined(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Functions of the module and methods of its classes, as (class or empty, function)."""
    for node in tree.body:
        if isinstance(node, Function):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            yield from ((node.name, child) for child in node.body if isinstance(child, Function))


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _sentences(docstring: str) -> list[str]:
    """Sentences of the first paragraphs, up to the first markup; none if the summary is no good."""
    sentences: list[str] = []
    for block in re.split(r"\n\s*\n", docstring.strip()):
        if _MARKUP.search(block):
            break
        text = " ".join(block.split())
        sentences += [s.strip() for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)]
    if not sentences or not 4 <= len(sentences[0].split()) <= 40:
        return []
    if not re.match(r"[A-Z][a-z]*\b", sentences[0]):
        return []
    return [s if s[-1] in ".!?:" else s + "." for s in sentences if len(s.split()) > 2]


_MARKUP = re.compile(
    r">>>|::|^\s*[-=~*+]|^\s*:\w|^\s*@\w|^\s*\w+\s*:|^\s*(?:Args|Parameters|Returns|Raises|Notes?|Examples?)\s*$",
    re.MULTILINE,
)


def _imperative(sentence: str) -> str:
    """`Returns the mean.` -> `return the mean`; empty where no verb is found in front."""
    bare = re.sub(
        r"^(?:This|The) (?:function|method|routine|helper)(?: will| can| is used to)? ",
        "",
        sentence,
    )
    first, _, rest = bare.rstrip(".!?: ").partition(" ")
    verb = first.lower()
    stems = (verb, verb[:-1], verb[:-2], verb[:-3] + "y")
    ends = ("", "s", "es", "ies")
    for stem, end in zip(stems, ends, strict=True):
        if verb.endswith(end) and stem in _VERBS:
            return f"{stem} {rest}"
    return ""


_VERB_TEXT = """
accept access accumulate acquire activate adapt add adjust aggregate align allocate analyze
annotate append apply approximate arrange assemble assert assign attach attempt augment average
balance begin bind block broadcast build cache calculate call cancel canonicalize cast catch
change check choose clean clear clip clone close coerce collapse collate collect combine compare
compile complete compose compress compute concatenate configure connect construct consume convert
copy correct count cover create crop cut decode decompose decompress decorate decrement define
delegate delete dequantize derive describe deserialize detach detect determine disable disconnect
discard dispatch display distribute divide do download draw drop dump emit emulate enable encode
end enforce ensure enter enumerate estimate evaluate evict exclude execute exit expand expect
export expose express extend extract factor fetch fill filter finalize find fit fix flag flatten
flip flush fold follow force format forward free freeze fuse gather generate get give go group
guard guess handle hash help hide hold identify implement import include increase increment index
infer initialize inject insert inspect install instantiate integrate interpolate intersect invert
invoke issue iterate join keep launch lay leave let limit link list listen load locate lock log
look lookup lower maintain make manage map mark mask match materialize measure merge migrate
minimize mix modify move multiply normalize notify obtain offload open optimize order output
override pack pad parse partition pass patch peek perform permute pick place plot poll pop
populate post prepare prepend preprocess preserve prevent print process produce project propagate
protect provide prune pull purge push put quantize query queue quote raise randomize read rebuild
receive recompute reconstruct record recover reduce refine refresh register reject release reload
remove rename render reorder repeat replace report represent request require rescale reset reshape
resize resolve restore restrict retrieve retry return reverse revert rewrite roll rotate round
route run sample sanitize save scale scan scatter schedule score search select send separate
serialize set setup shift show shuffle shut signal simplify simulate skip slice solve sort specify
split squeeze stack start stop store stream strip submit subtract sum swap switch synchronize take
tell terminate test throw time tokenize trace track train transfer transform translate transpose
traverse trigger trim truncate try tune turn undo unpack unregister update upgrade upload use
validate verify visit visualize wait walk warn wrap write yield
"""
_VERBS = frozenset(_VERB_TEXT.split())


def _arguments(arguments: ast.arguments) -> tuple[tuple[str, str, str], ...]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults += arguments.defaults
    pairs = list(zip(positional, defaults, strict=True))
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return tuple(
        (
            a.arg,
            ast.unparse(a.annotation) if a.annotation else "",
            ast.unparse(default) if default else "",
        )
        for a, default in pairs
        if a.arg not in ("self", "cls")
    )


def _solution(lines: list[str], node: Function) -> str:
    """The function's source lines without decorators and docstring, dedented."""
    docstring = node.body[0]
    start, end = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
    kept = lines[node.lineno - 1 : start] + lines[end : node.end_lineno]
    while len(kept) > start - node.lineno + 1 and not kept[start - node.lineno + 1].strip():
        del kept[start - node.lineno + 1]  # the empty line that followed the docstring
    return textwrap.dedent("\n".join(kept)).rstrip()


def _remarks(node: Function) -> tuple[str, ...]:
    """Facts about the code that a reader can check, told in words."""
    raised: list[str] = []
    calls: Counter[str] = Counter()
    kinds: Counter[type] = Counter()
    for child in ast.walk(node):
        kinds[type(child)] += 1
        if isinstance(child, ast.Raise) and child.exc is not None:
            raised.append(ast.unparse(child.exc).split("(")[0])
        elif isinstance(child, ast.Call) and isinstance(child.func, ast.Name):
            calls[child.func.id] += not hasattr(builtins, child.func.id)
    loops = kinds[ast.For] + kinds[ast.While]
    comprehensions = sum(
        kinds[kind] for kind in (ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
    )
    errors = " or ".join(f"`{name}`" for name in dict.fromkeys(raised[:3]))
    others = ", ".join(f"`{name}`" for name, count in calls.most_common(3) if count)
    remarks = {
        "It loops once over its data.": loops == 1,
        f"It has {loops} loops.": loops > 1,
        "A comprehension builds a collection in one expression.": comprehensions,
        "It is a generator: values are produced one at a time.": kinds[ast.Yield],
        f"It raises {errors} when it cannot go on.": raised,
        "Errors of an inner call are caught and handled.": kinds[ast.Try],
        "A context manager makes sure that resources are released.": kinds[ast.With],
        f"It distinguishes {kinds[ast.If]} conditions.": kinds[ast.If] > 1,
        f"It relies on {others}.": others,
        f"There are {kinds[ast.Return]} places where it returns.": kinds[ast.Return] > 1,
    }
    return tuple(remark for remark, holds in remarks.items() if holds)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _choose(options: tuple[str, ...], key: int) -> str:
    return options[key % len(options)]


def _subject(facts: Facts) -> str:
    if facts.owner:
        return f"a method `{facts.name}` of the class `{facts.owner}`"
    return f"a function `{facts.name}`"


def _listed(facts: Facts, bullet: str = "- ") -> str:
    """The arguments as a list, one a line."""
    rows = []
    for name, annotation, default in facts.arguments[:8]:
        row = f"{bullet}`{name}`"
        row += f", of type `{annotation}`" if annotation else ""
        row += f"; the default is `{default}`" if default else ""
        rows.append(row)
    return "\n".join(rows)


def _told(facts: Facts) -> str:
    """The arguments in one sentence."""
    names = [f"`{name}`" for name, _, _ in facts.arguments[:8]]
    if not names:
        return "It takes no arguments."
    told = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    optional = [f"`{name}`" for name, _, default in facts.arguments[:8] if default]
    if optional and len(optional) < len(names):
        return f"It takes {told}, of which {', '.join(optional)} may be left out."
    return f"It takes {told}."


def _task_and_solution(facts: Facts, key: int) -> str:
    ask = _choose(("Write", "Define", "Implement", "Your task is to write"), key)
    result = f" The result is of type `{facts.returns}`." if facts.returns else ""
    details = f"\n\n{facts.details}" if facts.details else ""
    head = _choose(("Exercise", "Task", "Problem"), key >> 2)
    return (
        f"{head}. {ask} {_subject(facts)} to {facts.task}. {_told(facts)}{result}{details}\n\n"
        f"{_choose(('Solution.', 'One solution:', 'A worked solution:'), key >> 4)}\n\n"
        f"{facts.solution}"
    )


def _question_and_answer(facts: Facts, key: int) -> str:
    ask = _choose(("How do I", "How can a program", "In Python, how would you"), key)
    remarks = " ".join(facts.remarks[:2])
    return (
        f"Question: {ask} {facts.task}?"
        + (f" {facts.details}" if facts.details else "")
        + f"\n\nAnswer: With {_subject(facts)}. {_told(facts)}\n\n{facts.solution}"
        + (f"\n\n{remarks}" if remarks else "")
    )


def _commented_script(facts: Facts, key: int) -> str:
    told = f"{_choose(('Goal', 'Task', 'To do'), key)}: {facts.task}. {facts.details}"
    comment = "\n".join(f"# {line}" for line in textwrap.wrap(told, 76))
    arguments = "\n".join(f"# {line}" for line in _listed(facts, "  ").split("\n") if line)
    given = f"#\n# Given:\n{arguments}\n" if arguments else ""
    return f"{comment}\n{given}\n{facts.solution}"


def _requirements(facts: Facts, key: int) -> str:
    arguments = _listed(facts)
    parts = [f"## {_choose(('Implement', 'Complete', 'Exercise:'), key)} `{facts.name}`", ""]
    parts.append(f"The {'method' if facts.owner else 'function'} should {facts.task}.")
    if arguments:
        parts += ["", "Arguments:", "", arguments]
    if facts.returns:
        parts += ["", f"Returns: `{facts.returns}`"]
    if facts.details:
        parts += ["", facts.details]
    return "\n".join([*parts, "", "```python", facts.solution, "```"])


def _read_and_explain(facts: Facts, key: int) -> str:
    ask = _choose(
        ("What does this code do?", "Explain the following function.", "Read the code below."), key
    )
    remarks = " ".join(facts.remarks)
    return (
        f"{ask}\n\n{facts.solution}\n\n"
        f"{_choose(('Answer', 'Explanation'), key >> 2)}: The purpose of `{facts.name}` is to"
        f" {facts.task}. {facts.details} {_told(facts)} {remarks}".rstrip()
    )


def _step_by_step(facts: Facts, key: int) -> str:
    plan = [f"The aim is to {facts.task}.", _told(facts), *facts.remarks[:4]]
    steps = "\n".join(f"{i}. {line}" for i, line in enumerate(plan, start=1))
    opening = _choose(
        ("We want {0}. A plan:", "Let us write {0}, step by step.", "Plan for {0}:"), key
    ).format(_subject(facts))
    note = f"\n\nNote: {facts.details}" if facts.details else ""
    return f"{opening}\n\n{steps}{note}\n\nPut together:\n\n{facts.solution}"


FORMS: tuple[Callable[[Facts, int], str], ...] = (
    _task_and_solution,
    _question_and_answer,
    _commented_script,
    _requirements,
    _read_and_explain,
    _step_by_step,
)
