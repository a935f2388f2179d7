"""What holds for every finding of every machine: its shape, its order, and commands that can run."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Doctor
from machines import DISTROS, Machine, build, nvidia
from verdicts import TABLES, check_shape, check_shapes, look

import doctor.findings.rules.examine as package
from doctor.errors import DoctorError
from doctor.facts import Facts, Host, Nvidia, PciDevice, from_json, to_json
from doctor.findings.context import Context, joined
from doctor.findings.finding import ERROR, INFO, WARNING, Finding
from doctor.findings.rules.examine import RULES, examine

SOURCES = sorted(Path(package.__file__).parents[1].rglob("*.py"))
BAD = Machine(
    memory=2,
    python="3.9.2",
    nvidia=nvidia("2 * RTX 5090", driver="550.144.03"),
    tools={"g++": None, "rustc": None, "cargo": None},
    rustbpe=None,
)
"""A machine that deserves much."""


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, list[Finding]]:
    return look(BAD, tmp_path_factory.mktemp("bad"))


CODE = re.compile(
    r"(host|cuda|torch|dist|npu|rust|rustbpe|data|hub|tokenizer|train|doctor)\.[a-z0-9-]+"
)


def codes_in_sources() -> set[str]:
    """Every text in the rules that looks like a code."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {n.value for n in nodes if isinstance(n.value, str) and CODE.fullmatch(n.value)}


def test_every_code_has_a_row_with_a_title() -> None:
    found = codes_in_sources()
    assert found
    for code in found:
        assert TABLES.code(code)["title"]


def test_every_rule_explains_itself() -> None:
    names = [f"{rule.__module__}.{rule.__name__}" for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(inspect.getdoc(rule) for rule in RULES)


def test_every_rule_of_a_module_is_in_its_list() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [ast.unparse(a.annotation) for a in node.args.args if a.annotation]
                if arguments == ["Context"] and "Iterator" in ast.unparse(node.returns or node):
                    assert node.name in {r.__name__ for r in RULES}, f"{path.name}: {node.name}"


def test_shape_of_a_bad_machine(bad: tuple[Facts, list[Finding]]) -> None:
    assert len(bad[1]) > 8
    assert {f.severity for f in bad[1]} == {ERROR, WARNING, INFO}
    check_shapes(bad[1])


def test_findings_are_a_function_of_the_facts(bad: tuple[Facts, list[Finding]]) -> None:
    facts, findings = bad
    again = from_json(json.loads(json.dumps(to_json(facts))))
    assert examine(again, TABLES) == findings
    assert examine(facts, TABLES) == findings


def test_json_of_a_finding(bad: tuple[Facts, list[Finding]]) -> None:
    for finding in bad[1]:
        data = json.loads(json.dumps(finding.to_json()))
        assert list(data) == ["code", "severity", "title", "cause", "evidence", "remedy"]
        assert list(data["remedy"]) == ["text", "commands"]
        assert isinstance(data["evidence"], list) and isinstance(data["remedy"]["commands"], list)


def test_nothing_known_is_nothing_said() -> None:
    assert examine(Facts(), TABLES) == []


def test_a_rule_that_raises_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Context) -> Iterator[Finding]:
        """Fails."""
        raise KeyError("hbm")
        yield

    def sound(c: Context) -> Iterator[Finding]:
        """Goes on."""
        yield c.finding("host.memory-low", WARNING, "Little.", ["1"], "More.")

    monkeypatch.setattr(package, "RULES", (broken, sound))
    failed, other = sorted(examine(Facts(), TABLES), key=lambda f: f.code)
    assert failed.code == "doctor.rule-failed"
    assert failed.severity == ERROR, "what it would have said is unknown: check must not exit 0"
    assert "broken" in failed.cause and "KeyError: 'hbm'" in failed.cause
    assert other.code == "host.memory-low"
    assert failed.cause.endswith(".") and failed.evidence and failed.remedy.text


def test_what_a_rule_said_before_it_failed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(c: Context) -> Iterator[Finding]:
        """Says one thing and fails."""
        yield c.finding("host.memory-low", WARNING, "Little.", ["1"], "More.")
        raise ValueError("then this")

    monkeypatch.setattr(package, "RULES", (half,))
    assert {f.code for f in examine(Facts(), TABLES)} == {"host.memory-low", "doctor.rule-failed"}


def test_damaged_tables_are_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(c: Context) -> Iterator[Finding]:
        """Uses a code that has no row."""
        yield c.finding("no.such", WARNING, "Little.", ["1"], "More.")

    monkeypatch.setattr(package, "RULES", (asks,))
    with pytest.raises(DoctorError, match=r"no\.such"):
        examine(Facts(), TABLES)


def test_the_same_finding_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(c: Context) -> Iterator[Finding]:
        """Says it."""
        yield c.finding("host.memory-low", WARNING, "Little.", ["1"], "More.")

    monkeypatch.setattr(package, "RULES", (one, one))
    assert len(examine(Facts(), TABLES)) == 1


@pytest.mark.parametrize(
    ("distro", "manager"),
    [
        ("ubuntu", "apt-get"),
        ("debian", "apt-get"),
        ("centos", "yum"),
        ("alpine", "apk"),
        ("openeuler", "dnf"),
    ],
)
def test_commands_are_of_the_distribution(distro: str, manager: str, tmp_path: Path) -> None:
    assert distro in DISTROS
    machine = Machine(torch="cpu", distro=distro, tools={"g++": None, "gcc": None})
    (finding,) = (f for f in look(machine, tmp_path)[1] if f.code == "host.compiler-missing")
    (command,) = finding.remedy.commands
    assert manager in command.split()


def test_commands_of_an_unknown_distribution(tmp_path: Path) -> None:
    machine = Machine(
        torch="cpu", tools={"g++": None, "gcc": None}, files={"/etc/os-release": "ID=nixos\n"}
    )
    (finding,) = (f for f in look(machine, tmp_path)[1] if f.code == "host.compiler-missing")
    assert finding.remedy.commands == ()
    check_shape(finding)


@pytest.mark.parametrize(
    ("words", "text"),
    [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")],
)
def test_joined(words: tuple[str, ...], text: str) -> None:
    assert joined(words) == text


# --- the command --------------------------------------------------------------------------------

SEEN: dict[str, tuple[Machine, int, set[str]]] = {
    "healthy": (Machine(nvidia=nvidia("RTX 4090"), torch="cu128"), 0, set()),
    "warned": (Machine(torch="cpu", memory=2), 0, {"host.memory-low"}),
    "bad": (BAD, 1, {"host.python-too-old", "cuda.driver-too-old", "torch.missing"}),
}


@pytest.mark.parametrize("name", SEEN)
def test_the_command_says_the_same(
    name: str, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, status, codes = SEEN[name]
    root = build(machine, tmp_path / "root")
    answer = doctor("--root", str(root), "--execute", "check", "--json")
    assert answer.status == status
    data: Any = answer.json
    assert codes <= {f["code"] for f in data["findings"]}
    monkeypatch.chdir(doctor.folder)  # commands name the tool as seen from where one stands
    assert data["findings"] == [f.to_json() for f in examine(from_json(data["facts"]), TABLES)]


def test_strict_counts_warnings(doctor: Doctor, tmp_path: Path) -> None:
    root = build(Machine(torch="cpu", memory=2), tmp_path / "root")
    assert doctor("--root", str(root), "--execute", "check", "--strict").status == 1
    assert doctor("--root", str(root), "--execute", "check").status == 0


def test_text_names_every_finding(doctor: Doctor, tmp_path: Path) -> None:
    root = build(BAD, tmp_path / "root")
    text = " ".join(doctor("--root", str(root), "--execute", "check").out.split())
    for finding in look(BAD, tmp_path / "again")[1]:
        if finding.severity != INFO:
            assert finding.code in text


@pytest.mark.parametrize(
    ("chips", "said"),
    [
        (["GB202"], "An NVIDIA GPU (GB202) is on the PCI bus"),
        (["GB202", "GB202"], "2 NVIDIA GPUs (2 × GB202) are on the PCI bus"),
        (["GB202", "GP104"], "2 NVIDIA GPUs (GB202 and GP104) are on the PCI bus"),
        (["A", "B", "B"], "3 NVIDIA GPUs (A and 2 × B) are on the PCI bus"),
    ],
)
def test_gpus_are_counted(chips: list[str], said: str) -> None:
    bus = tuple(
        PciDevice(address=f"0000:0{n}:00.0", vendor_id="0x10de", device_id="0x1", chip=chip)
        for n, chip in enumerate(chips)
    )
    facts = Facts(host=Host(os="Linux", arch="x86_64"), nvidia=Nvidia(pci_devices=bus))
    causes = [f.cause for f in examine(facts, TABLES) if f.code == "cuda.driver-missing"]
    assert len(causes) == 1 and causes[0].startswith(said)
