"""What the text of one Python module tells: its top-level names, and the packages it needs.

Where the file is, and what becomes of the answer, is `static`'s work.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from functools import cached_property

# `__getattr__`, lazy modules such as transformers', and names made by calls.
DYNAMIC = re.compile(
    rb"^def __getattr__\b|^\s*global\s|sys\.modules\[__name__\]"
    rb"|\b(globals|locals|vars)\(\)|\bexec\(|^__path__\b",
    re.MULTILINE,
)


class Source:
    """One module's text, parsed when it is needed."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @property
    def dynamic(self) -> bool:
        """Whether running the module may define names that its text does not show."""
        return DYNAMIC.search(self.text) is not None

    @property
    def extends_path(self) -> bool:
        """Whether it may make further modules importable."""
        return b"sys.path" in self.text

    def defines(self, name: str) -> bool:
        """Whether a plain top-level `def` or `class` of that name is there; needs no parsing."""
        pattern = rf"^(?:class|def|async def) {re.escape(name)}\b".encode()
        return re.search(pattern, self.text, re.MULTILINE) is not None

    @cached_property
    def _parsed(self) -> tuple[ast.Module, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return ast.parse(self.text), ""
            except SyntaxError as exc:
                return ast.Module(body=[], type_ignores=[]), f"{exc.lineno or 1}: {exc.msg}"

    @property
    def error(self) -> str:
        """`line: what is wrong` where the text is not Python, else empty."""
        return self._parsed[1]

    @cached_property
    def _bindings(self) -> tuple[set[str], list[ast.ImportFrom]]:
        """Names that the top level binds, also inside `if`, `try` and `with`; star imports."""
        names: set[str] = set()
        stars: list[ast.ImportFrom] = []
        pending: list[ast.AST] = list(self._parsed[0].body)
        while pending:
            node = pending.pop()
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    names.add(node.name)
                    continue
                case ast.Name(ctx=ast.Store()):
                    names.add(node.id)
                case ast.ImportFrom(names=[ast.alias(name="*")]):
                    stars.append(node)
                    continue
                case ast.alias():
                    names.add(node.asname or node.name.partition(".")[0])
            pending.extend(ast.iter_child_nodes(node))
        return names, stars

    @property
    def names(self) -> set[str]:
        """The names bound at the top level, without those of star imports."""
        return self._bindings[0]

    def stars(self, *, package: str) -> Iterator[str]:
        """The modules whose names `from module import *` takes over."""
        for node in self._bindings[1]:
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            yield ".".join([*base, *filter(None, [node.module])])

    def packages_needed(self) -> Iterator[tuple[int, str]]:
        """The line and top-level package of each import that always happens."""
        for node in self._parsed[0].body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name.partition(".")[0]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield node.lineno, node.module.partition(".")[0]
