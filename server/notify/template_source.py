"""One Jinja2 source: what it may say, and how it is compiled and rendered."""

from datetime import tzinfo
from typing import Any, Final, NoReturn, cast

from babel import Locale
from jinja2 import TemplateRuntimeError, TemplateSyntaxError, nodes
from jinja2.environment import Template as JinjaTemplate
from jinja2.meta import find_undeclared_variables
from jinja2.visitor import NodeTransformer

from protocol.errors import ProtocolError, Refused
from protocol.notify_templates import MAX_SOURCE_BYTES
from server.notify.template_filters import FILTERS, HEAVY_FILTERS
from server.notify.template_sandbox import (
    COMPARED,
    CONCAT,
    LOOP,
    MAX_NUMBER,
    RANGE,
    SLICE,
    Purse,
    RenderContext,
    TemplateEnvironment,
    TooMuch,
    UnknownVariable,
)

MAX_DEPTH: Final = 40  # of nested blocks and expressions; CPython itself takes 20 nested loops
MAX_NODES: Final = 1_000  # of one source; it then takes 0.05 s to compile, once
RESERVED: Final = frozenset({"self", "super", "caller", "varargs", "kwargs", "loop", "range"})
_NUMBERS: Final = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod)
_ALLOWED: Final = frozenset(
    {
        *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign),
        *(nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Tuple, nodes.List),
        *(nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword, nodes.Compare, nodes.Operand, nodes.Concat),
        *(nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.Neg, nodes.Pos, *_NUMBERS),
    }
)
# Steps of what takes longer than the 0.1 µs or so of a plain node.
_HEAVY_STEPS: Final = 50  # Babel's filters: about 10 µs
_FILTER_STEPS: Final = 5
_COMPARING: Final = frozenset(
    {"eq", "equalto", "ne", "lt", "lessthan", "le", "gt", "greaterthan", "ge"}  # tests that compare
)

_TEXT: Final = TemplateEnvironment(autoescape=False, filters=FILTERS)
_HTML: Final = TemplateEnvironment(autoescape=True, filters=FILTERS)


class Source:
    """A compiled source. `names`: the variables that it uses."""

    __slots__ = ("_constant", "_environment", "_root", "_steps", "names", "where")

    def __init__(self, source: str, *, where: str, is_html: bool = False) -> None:
        """Compile; `where` names the source in errors, such as texts.default.en.push.body.

        Raises: ProtocolError(bad_field): it is no template, too large, or says what a template may not;
        the message tells the line.
        """
        self.where = where
        self.names: frozenset[str] = frozenset()
        self._environment = _HTML if is_html else _TEXT
        self._constant: str | None = None
        if len(source.encode(errors="surrogatepass")) > MAX_SOURCE_BYTES:
            raise ProtocolError("bad_field", f"{where}: longer than {MAX_SOURCE_BYTES // 1024} KiB")
        if "{" not in source:
            self._constant = whole(source)
            return
        try:
            tree = self._environment.parse(source)
            _Judge().judge(tree)
            self.names = frozenset(find_undeclared_variables(tree)) - RESERVED
            self._steps = _steps(tree)
            code = self._environment.compile(_Bounded().visit(tree))
        except TemplateSyntaxError as exc:
            raise ProtocolError("bad_field", f"{where}, line {exc.lineno}: {exc.message}") from exc
        except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as exc:
            # Of Python's own compiler, or from an integer of thousands of digits.
            raise ProtocolError("bad_field", f"{where}: too deeply nested, or a number too large") from exc
        self._root = JinjaTemplate.from_code(self._environment, code, {}).root_render_func

    def render(
        self,
        data: dict[str, Any],
        locale: Locale,
        time_zone: tzinfo,
        *,
        max_chars: int,
        purse: Purse | None = None,
    ) -> str:
        """Write the text. `purse`: what all texts of one rendering pay from.

        Raises: Refused(template_variable_unknown, template_failed): the data lack a variable; or a filter
        cannot take a value, or the template does too much or is longer than `max_chars`.
        """
        if self._constant is not None:
            return self._constant
        context = RenderContext(self._environment, data, locale, time_zone, purse or Purse())
        chunks: list[str] = []
        size = 0
        try:
            context.step(self._steps)
            for chunk in self._root(context):
                chunks.append(chunk)
                size += len(chunk)
                if size > max_chars:
                    _refuse_length(max_chars)
        except UnknownVariable as exc:
            message = whole(f"{self.where}: the data have no {exc.variable!r}")
            raise Refused("template_variable_unknown", message) from exc
        except (
            TooMuch,
            TemplateRuntimeError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            RecursionError,
        ) as exc:
            raise Refused("template_failed", whole(f"{self.where}: {exc}")) from exc
        return whole("".join(chunks))


def whole(text: str) -> str:
    """A text that can be encoded: halves of characters that belong together are joined, others replaced.

    Sources write them as JavaScript does: {{ '\\ud83d\\ude00' }}.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _refuse_length(max_chars: int) -> NoReturn:
    raise TooMuch(f"longer than {max_chars:,} characters")


class _Judge:
    """Walk a tree, and raise TemplateSyntaxError at the first thing that a template may not say."""

    def __init__(self) -> None:
        self._count = 0

    def judge(self, node: nodes.Node, depth: int = 0) -> None:
        self._count += 1
        if self._count > MAX_NODES:
            _refuse(node, f"more than {MAX_NODES:,} parts")
        if depth > MAX_DEPTH:
            _refuse(node, f"nested more than {MAX_DEPTH} deep")
        if type(node) not in _ALLOWED:
            _refuse(node, f"{type(node).__name__} is not allowed in templates")
        problem = _problem(node)
        if problem:
            _refuse(node, problem)
        for child in node.iter_child_nodes():
            self.judge(child, depth + 1)


def _problem(node: nodes.Node) -> str:
    """What is wrong with a node of an allowed kind; empty: nothing."""
    match node:
        case nodes.Filter(node=None):
            return "filter blocks are not allowed in templates"
        case nodes.Filter(name=name) if name not in FILTERS:
            return f"there is no filter {name!r}"
        case nodes.Test(name=name) if name not in _TEXT.tests:
            return f"there is no test {name!r}"
        case nodes.Filter() | nodes.Test() | nodes.Call() if node.dyn_args or node.dyn_kwargs:
            return "* and ** are not allowed in templates"
        case nodes.Filter(name="plural") if not any(pair.key == "other" for pair in node.kwargs):
            return "plural needs the form `other`"
        case nodes.Call() if not (isinstance(node.node, nodes.Name) and node.node.name == "range"):
            return "nothing can be called but range()"
        case nodes.Call() if node.kwargs:
            return "range() takes numbers only"
        case nodes.Name(name=name, ctx="store") if name in RESERVED:
            return f"{name} cannot be set"
        case nodes.Name(name=name) if name in RESERVED - {"loop", "range"} or name.startswith("_"):
            return f"there is no {name}"
        case nodes.Getattr(attr=attr) if attr.startswith("_"):
            return f"there is no field {attr}"
        case nodes.For(recursive=True):
            return "recursive loops are not allowed in templates"
        case nodes.Assign() if not isinstance(node.target, nodes.Name):
            return "set takes one name"
        case nodes.List() if not all(isinstance(item, nodes.Const) for item in node.items):
            return "a list may hold constants only"
        case nodes.Tuple(ctx="load") if not all(isinstance(item, nodes.Const) for item in node.items):
            return "a list may hold constants only"
        case nodes.Const(value=int() | float() as value) if not -MAX_NUMBER <= value <= MAX_NUMBER:
            return "a number beyond ±2^53"
        case _:
            return ""


def _refuse(node: nodes.Node, problem: str) -> None:
    raise TemplateSyntaxError(problem, getattr(node, "lineno", None) or 1)


def _steps(node: nodes.Node) -> int:
    """What a node costs at the most, but for bodies of loops, which each loop pays for itself."""
    own = 1
    if isinstance(node, nodes.Filter):
        own = _HEAVY_STEPS if node.name in HEAVY_FILTERS else _FILTER_STEPS
    if isinstance(node, nodes.For):
        return own + _steps(node.iter) + sum(map(_steps, node.else_))
    return own + sum(map(_steps, node.iter_child_nodes()))


class _Bounded(NodeTransformer):
    """Put in what holds loops, slices and joined strings to their bounds."""

    def visit_For(self, node: nodes.For, *args: Any, **kwargs: Any) -> nodes.Node:
        parts = [*node.body, *([node.test] if node.test is not None else [])]
        body_steps = 1 + sum(map(_steps, parts))
        self.generic_visit(node, *args, **kwargs)
        node.iter = _filter(LOOP, cast("nodes.Expr", node.iter), nodes.Const(body_steps))
        return node

    def visit_Getitem(self, node: nodes.Getitem, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node, *args, **kwargs)
        if not isinstance(node.arg, nodes.Slice):
            return node
        parts = (node.arg.start, node.arg.stop, node.arg.step)
        return _filter(SLICE, node.node, *(nodes.Const(None) if part is None else part for part in parts))

    def visit_Concat(self, node: nodes.Concat, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node, *args, **kwargs)
        return _filter(CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Call(self, node: nodes.Call, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node, *args, **kwargs)
        return _filter(RANGE, nodes.List(node.args, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node, *args, **kwargs)
        node.expr = _compared(node.expr)
        for operand in node.ops:
            operand.expr = _compared(operand.expr)
        return node

    def visit_Test(self, node: nodes.Test, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node, *args, **kwargs)
        if node.name in _COMPARING:
            node.node = _compared(node.node)
            node.args = [_compared(argument) for argument in node.args]
        return node

    def visit_CondExpr(self, node: nodes.CondExpr, *args: Any, **kwargs: Any) -> nodes.Node:
        """Without else it is empty; Jinja2 would take it for something undefined."""
        self.generic_visit(node, *args, **kwargs)
        if node.expr2 is None:
            node.expr2 = nodes.Const("")
        return node


def _compared(value: nodes.Expr) -> nodes.Expr:
    """Let a value be paid for, unless it is one of the source's own, which are short."""
    return value if isinstance(value, nodes.Const) else _filter(COMPARED, value)


def _filter(name: str, value: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)
