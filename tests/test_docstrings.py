"""Public docstrings: each public thing has one, and its sections name the parameters and fields that there are."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [*sorted((ROOT / "src" / "instant3d").rglob("*.py")), *sorted((ROOT / "data_prep").rglob("*.py"))]
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
MANY = 4  # parameters, from which on each is described
NO_DOCSTRING = {"data_prep/rendering/blender_worker.py"}  # BlenderProc must be imported on its first line
ROUTE = "api."  # decorator of functions whose docstrings are the HTTP API's descriptions, parameters apart
# methods that Lightning or torch document
HOOK = re.compile(r"on_\w+|\w+_step|\w+_dataloader|forward|setup|configure_optimizers|state_dict|load_state_dict")


def methods(node: ast.ClassDef) -> dict[str, FUNCTIONS]:
    return {part.name: part for part in node.body if isinstance(part, FUNCTIONS)}


def is_public(node: FUNCTIONS | ast.ClassDef) -> bool:
    return not node.name.startswith("_") and not decorated(node, "overload", ".setter")


def decorated(node: FUNCTIONS | ast.ClassDef, *words: str) -> bool:
    return any(word in ast.unparse(decorator) for decorator in node.decorator_list for word in words)


def public() -> Iterator[tuple[str, ast.AST, ast.ClassDef | None]]:
    """Each public module, class, function and method, with its place, and the class of a method."""
    for file, tree in TREES.items():
        if file not in NO_DOCSTRING:
            yield file, tree, None
        for node in tree.body:
            if isinstance(node, FUNCTIONS | ast.ClassDef) and is_public(node):
                yield f"{file}:{node.lineno} {node.name}", node, None
                if isinstance(node, ast.ClassDef):
                    for part in filter(is_public, methods(node).values()):
                        yield f"{file}:{part.lineno} {node.name}.{part.name}", part, node


def classes() -> dict[str, list[ast.ClassDef]]:
    """All classes by name."""
    found = defaultdict(list)
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(node)
    return found


TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in FILES}
CLASSES = classes()
PUBLIC = list(public())
CALLABLES = [  # the parameters of a class are those of its constructor
    (place, ast.get_docstring(node) or "", methods(node)["__init__"] if isinstance(node, ast.ClassDef) else node, owner)
    for place, node, owner in PUBLIC
    if isinstance(node, FUNCTIONS) or (isinstance(node, ast.ClassDef) and "__init__" in methods(node))
]


def is_inherited(owner: ast.ClassDef | None, method: str) -> bool:
    """Whether a base class, of this project or of a library, documents a method."""
    for base in owner.bases if owner else ():
        name = ast.unparse(base).split("[")[0].split(".")[-1]
        if name not in CLASSES and HOOK.fullmatch(method):
            return True
        for node in CLASSES.get(name, []):
            own = methods(node).get(method)
            if (own and ast.get_docstring(own)) or is_inherited(node, method):
                return True
    return False


def parameters(node: FUNCTIONS) -> list[str]:
    """All but compile-time constants of kernels, which are in capitals."""
    spec = node.args
    found = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    return [part.arg for part in found if part and part.arg not in ("self", "cls") and not part.arg.isupper()]


def section(doc: str, title: str) -> list[str]:
    """The names that a section of a docstring describes."""
    text = doc.partition(f"{title}:\n")[2].split("\n\n")[0]
    return re.findall(r"^    \*{0,2}(\w+): ", text, re.MULTILINE)


def test_docstrings_are_there_for_every_public_thing():
    assert len(PUBLIC) > 2000
    missing = [(place, owner, node) for place, node, owner in PUBLIC if not ast.get_docstring(node)]
    assert [place for place, owner, node in missing if not is_inherited(owner, node.name)] == []


def test_docstrings_begin_with_a_line_that_ends_with_a_full_stop():
    firsts = [f"{place}: {doc.splitlines()[0]}" for place, node, _ in PUBLIC if (doc := ast.get_docstring(node))]
    assert [first for first in firsts if not first.endswith(".")] == []


def test_docstrings_of_functions_with_many_parameters_describe_them():
    many = [(place, doc, node, owner) for place, doc, node, owner in CALLABLES if len(parameters(node)) >= MANY]
    plain = [(place, node, owner) for place, doc, node, owner in many if not section(doc, "Args")]
    assert len(many) > 200
    plain = [(place, node, owner) for place, node, owner in plain if not decorated(node, ROUTE)]
    assert [place for place, node, owner in plain if not is_inherited(owner, node.name)] == []


def test_docstrings_describe_the_parameters_of_the_signature_in_its_order():
    found = [(place, section(doc, "Args"), parameters(node)) for place, doc, node, _ in CALLABLES if "Args:\n" in doc]
    assert len(found) > 500
    assert [(place, *differing) for place, *differing in found if differing[0] != differing[1]] == []


def test_docstrings_of_dataclasses_describe_their_fields_in_order():
    found = [
        (place, names, [part.target.id for part in node.body if isinstance(part, ast.AnnAssign)])
        for place, node, _ in PUBLIC
        if isinstance(node, ast.ClassDef)
        and decorated(node, "dataclass")
        and (names := section(ast.get_docstring(node) or "", "Attributes"))
    ]
    assert len(found) > 80
    assert [(place, names, fields) for place, names, fields in found if names != fields] == []


ADD = """Add.

Args:
    a: One.
        More: words.
    **b: Two.

Returns:
    c: The sum.
"""


@pytest.mark.parametrize(("text", "title", "names"), [(ADD, "Args", ["a", "b"]), (ADD, "Attributes", [])])
def test_docstring_section_gives_the_names_that_it_describes(text, title, names):
    assert section(text, title) == names
