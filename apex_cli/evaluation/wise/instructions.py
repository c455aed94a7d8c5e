"""What the judge of WISE is told. The benchmark has no licence, so its wording is not in this package: it is read from
the script of a clone, whose source is parsed and never run. Without a script our own wording stands in, and says so in
the name of the protocol.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from apex_cli.errors import SetupError

OWN = {
    "legacy": (
        "You grade pictures that a model drew from a prompt. A picture was asked for with these words:\n{Prompt}\n"
        "What a person who knows the world expects to see:\n{Explanation}\n"
        "Give three marks, each 0 (fails), 1 (in part) or 2 (without any fault, rarely given): Consistency, whether all"
        " that the prompt implies is shown; Realism, whether it could be a photograph; Aesthetic Quality, whether it is"
        " composed and lit with skill. Write three lines and nothing else:\n"
        "Consistency: <mark>\nRealism: <mark>\nAesthetic Quality: <mark>"
    ),
    "verified": (
        "You check whether a picture shows what a prompt implies. The prompt:\n{Prompt}\n"
        "What a person who knows the world expects to see:\n{Explanation}\n"
        "Write 1 if the picture shows it, 0 if it does not, and nothing else:\nScore: <0 or 1>"
    ),
}


class Instructions(Protocol):
    own: bool
    """Whether the wording is ours."""
    identity: str

    def messages(self, fields: Mapping[str, str]) -> tuple[str, str]:
        """(system, question) for the fields of a prompt."""
        ...


@dataclass(frozen=True)
class OwnWording:
    edition: str
    own = True

    @property
    def identity(self) -> str:
        return hashlib.sha256(OWN[self.edition].encode()).hexdigest()

    def messages(self, fields: Mapping[str, str]) -> tuple[str, str]:
        return "", OWN[self.edition].format(Prompt=fields["Prompt"], Explanation=fields["Explanation"])


@dataclass(frozen=True)
class ScriptWording:
    """The messages that `gpt_eval.py` or `vllm_eval.py` of a clone builds."""

    path: Path
    own = False

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def _tree(self) -> ast.Module:
        try:
            return ast.parse(self.path.read_bytes())
        except (SyntaxError, ValueError) as error:
            told = f"'{self.path}' is no Python script ({error})."
            raise SetupError(told, "Name the script of WISE that asks the judge, or leave it out.") from error

    @cached_property
    def _nodes(self) -> dict[str, ast.expr]:
        """Role -> the expression of its text."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.List) and (found := _roles(node)):
                return found
        told = f"'{self.path}' builds no list of messages with a role and a text."
        raise SetupError(told, "Name the script of WISE that asks the judge, or leave it out for our own wording.")

    def messages(self, fields: Mapping[str, str]) -> tuple[str, str]:
        texts = {role: _written(node, fields) for role, node in self._nodes.items()}
        return texts.get("system", ""), texts["user"]


def _roles(messages: ast.List) -> dict[str, ast.expr]:
    """Role -> text of a literal list of chat messages; empty where it is none."""
    found = {}
    for message in messages.elts:
        fields = _fields(message)
        role, content = fields.get("role"), fields.get("content")
        if isinstance(role, ast.Constant) and content is not None and (text := _text(content)) is not None:
            found[str(role.value)] = text
    return found if "user" in found else {}


def _text(content: ast.expr) -> ast.expr | None:
    """The text of a message: its content, or the part of type "text"."""
    if not isinstance(content, ast.List):
        return content
    parts = [_fields(part) for part in content.elts]
    return next((part["text"] for part in parts if "text" in part), None)


def _fields(node: ast.expr) -> dict[str, ast.expr]:
    if not isinstance(node, ast.Dict):
        return {}
    return {str(k.value): v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}


def _written(node: ast.expr, fields: Mapping[str, str]) -> str:
    """The value of a string or f-string whose holes are fields of the prompt: `{prompt_data['Prompt']}`."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_written(part, fields) for part in parts)
        case ast.FormattedValue(value=ast.Subscript(slice=ast.Constant(value=str(name)))) if name in fields:
            return str(fields[name])
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _written(left, fields) + _written(right, fields)
    told = f"The script's wording has a part that cannot be read without running it: {ast.unparse(node)}."
    raise SetupError(told, "Leave the script out for our own wording.")
