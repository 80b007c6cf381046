"""What the documents say is so: keys, commands, examples."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from scheduler.cli.app import build
from scheduler.cli.dags import LIST_FIELDS
from scheduler.config import KEYS, load_config
from tests.cli.support import REPOSITORY, CommandLine

DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_every_configuration_key_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| `?([^|`]+)`? \|", text_of("docs/operating.md"), re.MULTILINE))
    assert list(rows) == list(KEYS)
    for key, value, _ in load_config(env={}).rows():
        said = rows[key].strip()
        assert said == "none" if value is None else str(value) in (said, f"{said}.0"), key


def commands_in(text: str) -> list[list[str]]:
    shown = re.findall(r"asyncsched ((?:[a-z]+(?: |$|`|\n|,))+)", text)
    return [re.findall(r"[a-z]+", each) for each in shown]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_exists(document: Path) -> None:
    root = get_command(build())
    for words in commands_in(document.read_text(encoding="utf-8")):
        if words[0] not in root.commands:
            continue  # "asyncsched asyncsched" in createdb and the like
        command = root.commands[words[0]]
        if hasattr(command, "commands"):
            assert words[1] in command.commands, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_the_readme_has_the_two_commands() -> None:
    readme = text_of("README.md")
    assert "\n    pip install . && asyncsched run examples\n" in readme
    assert "\n    pip install nox && nox\n" in readme


@pytest.mark.parametrize("name", ["README.md", "docs/dags.md"])
def test_dags_in_the_documents_load(asyncsched: CommandLine, tmp_path: Path, name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", text_of(name), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        (tmp_path / f"block{number}.py").write_text(block)
    checked = asyncsched("dags", "check", str(tmp_path), "--json")
    assert checked.json == []


def test_the_promised_shapes_are_documented() -> None:
    text = text_of("docs/json.md")
    for field in LIST_FIELDS:
        assert f'"{field}"' in text
