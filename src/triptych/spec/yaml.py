"""YAML as plain data: the numbers of YAML 1.2, no key twice, and one line with a position for what is wrong.

ruamel.yaml reads YAML 1.2, in which `0100` is a hundred, `1e6` a number, and `1:30` and `no` are text. It is
narrowed here to what declarations are made of: a date is text, and there are no sets, bytes or objects.
"""

from __future__ import annotations

from io import StringIO
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

_LONG = 40
"""Characters of a wrong value that an error shows."""
_TAG = "tag:yaml.org,2002:"


class NotYamlError(ValueError):
    """A text is not YAML, or means no value. `line` counts from 1; None where none can be named."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def parse_yaml(text: str) -> Any:
    """What a text declares: mappings, lists, text, numbers, true and false, None.

    Raises:
        NotYamlError: it is not YAML, gives a key twice, or holds what cannot be read as a value.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.Constructor = _Composer, _Constructor
    try:
        return yaml.load(text)
    except ReaderError as error:
        problem = f"the character U+{error.character:04X} is not allowed; remove it"
        raise NotYamlError(problem, text.count("\n", 0, error.position) + 1) from None
    except MarkedYAMLError as error:
        problem = error.problem or "not readable"
        if problem.startswith("but"):
            problem = f"{error.context}, {problem}"
        mark = error.problem_mark
        raise NotYamlError(problem, None if mark is None else mark.line + 1) from None
    except RecursionError:
        raise NotYamlError("nested too deeply") from None
    except (
        Exception
    ):  # the library lets through what its scanner trips over, such as an escape of no character
        raise NotYamlError("not readable") from None


def dump_yaml(data: Any) -> str:
    """Plain data as a text that `parse_yaml` reads back."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    text = StringIO()
    yaml.dump(data, text)
    return text.getvalue()


class _Composer(Composer):
    """Refuses a key that is given twice, on the nodes as written: what `<<` merges in may be given again."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # YAML 1.2 allows it, and the warning would be printed

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if key.value in seen:
                    raise _given_twice(key)
                seen.add(key.value)
        return node


class _Constructor(SafeConstructor):
    """Makes the values that JSON has, and text of all else that may be written without a tag."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError):  # of int, float and the library's tables, on what only looks right
            problem = f"{_cut(node.value)} cannot be read as a value; correct it, or put it in quotes"
            raise ConstructorError(None, None, problem, node.start_mark) from None

    def check_mapping_key(self, node: Node, key_node: Node, mapping: Any, key: Any, value: Any) -> bool:
        if key in mapping:  # though written in another way, such as 1 and 1.0
            raise _given_twice(key_node)
        return True

    def construct_yaml_str(self, node: Node) -> str:
        text = str(super().construct_yaml_str(node))
        text.encode()  # half a surrogate pair, which can be written as an escape, is no text
        return text

    def refuse(self, node: Node) -> NoReturn:
        raise ConstructorError(None, None, f"the tag {node.tag} is not known; remove it", node.start_mark)


def _given_twice(key: Node) -> MarkedYAMLError:
    return ConstructorError(
        None, None, f"the key {_cut(key.value)} is given twice; remove one", key.start_mark
    )


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


_Constructor.yaml_constructors = {
    **dict.fromkeys(
        map(_TAG.__add__, ("str", "timestamp", "value", "merge")), _Constructor.construct_yaml_str
    ),
    _TAG + "null": _Constructor.construct_yaml_null,
    _TAG + "bool": _Constructor.construct_yaml_bool,
    _TAG + "int": _Constructor.construct_yaml_int,
    _TAG + "float": _Constructor.construct_yaml_float,
    _TAG + "seq": _Constructor.construct_yaml_seq,
    _TAG + "map": _Constructor.construct_yaml_map,
    None: _Constructor.refuse,
}
