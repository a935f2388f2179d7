"""Facts travel as JSON and come back the same; what is no facts file is refused with its place."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor import facts as module
from doctor.errors import DoctorError
from doctor.facts import AREAS, SCHEMA, Endpoint, Facts, Gpu, Host, Nvidia, Tool, from_json, to_json

words = st.text(max_size=8)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: words,
    int: st.integers(0, 2**40),
    float: st.floats(0, 2**40),
    bool: st.booleans(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.none() | values(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(words, values(arguments[1]), max_size=2)
    return PLAIN[kind] if kind in PLAIN else instances(kind)


@functools.cache
def instances(kind: type) -> st.SearchStrategy[Any]:
    """Facts of a kind with every field drawn."""
    fields = {
        name: values(hint)
        for name, hint in get_type_hints(kind).items()
        if name != "schema" and name in {f.name for f in dataclasses.fields(kind)}
    }
    return st.deferred(lambda: st.builds(kind, **fields))


AREA_KINDS = sorted({f.name for f in dataclasses.fields(Facts)} & {*AREAS, "deep"})


@pytest.mark.parametrize("area", AREA_KINDS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_area_comes_back_the_same(area: str, data: st.DataObject) -> None:
    facts = Facts(**{area: data.draw(values(get_type_hints(Facts)[area]))})
    text = json.dumps(to_json(facts))
    assert from_json(json.loads(text)) == facts
    assert json.dumps(to_json(from_json(json.loads(text)))) == text


KINDS = [k for k in vars(module).values() if isinstance(k, type) and issubclass(k, module.Fact)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_facts_are_values(kind: type, data: st.DataObject) -> None:
    fact = data.draw(instances(kind))
    fields = {f.name: getattr(fact, f.name) for f in dataclasses.fields(kind)}
    assert kind(**fields) == fact == copy.deepcopy(fact)
    assert dataclasses.replace(fact) == fact
    assert all(name in repr(fact) for name, value in fields.items() if value)
    for name, value in fields.items():
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(fact, name, value)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(fact, name)
    with pytest.raises(TypeError):
        kind("positional")
    with pytest.raises(TypeError):
        kind(**fields, no_such_field=1)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not module.Fact])
def test_facts_of_one_kind_differ_by_any_field(kind: type) -> None:
    required = {
        f.name: "x"
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    one = kind(**required)
    for field in dataclasses.fields(kind):
        assert dataclasses.replace(one, **{field.name: "another"}) != one
    assert one != module.Fact() and one != "text"


def test_the_three_answers_survive() -> None:
    host = Host(cores=8, container=None, memory_total=None, unknown={"memory_total": "no /proc"})
    back = from_json(to_json(Facts(host=host)))
    assert back.host == host
    assert back.host is not None and back.host.unknown == {"memory_total": "no /proc"}
    assert back.nvidia is None


def test_an_empty_unknown_is_left_out_and_a_full_one_is_kept() -> None:
    shown = to_json(Facts(host=Host(unknown={"os": "why"}), tool="1"))
    assert shown["host"]["unknown"] == {"os": "why"}
    assert "unknown" not in shown


def test_empty_is_not_unset() -> None:
    for value in ("", None, "0"):
        facts = Facts(nvidia=Nvidia(visible_variable=value))
        back = from_json(to_json(facts))
        assert back.nvidia is not None and back.nvidia.visible_variable == value


def test_a_whole_number_serves_as_a_float() -> None:
    data = to_json(Facts(host=Host(cgroup_cpu_limit=2.0)))
    data["host"]["cgroup_cpu_limit"] = 2
    assert from_json(data) == Facts(host=Host(cgroup_cpu_limit=2.0))


GOOD = to_json(
    Facts(
        host=Host(tools={"gcc": Tool(path="/usr/bin/gcc")}),
        nvidia=Nvidia(gpus=(Gpu(index=0, name="H100"),)),
    )
)

REFUSED = {
    "no object": (lambda d: [d], "has no schema"),
    "text": (lambda d: "facts", "has no schema"),
    "nothing": (lambda d: None, "has no schema"),
    "no schema": (lambda d: d.pop("schema") and d, "has no schema"),
    "findings instead": (lambda d: {"findings": [], "facts": d}, "has no schema"),
    "later schema": (lambda d: d | {"schema": 2}, "has schema 2 and this version reads 1"),
    "schema as text": (lambda d: d | {"schema": "1"}, "has schema '1'"),
    "unknown area": (lambda d: d | {"weather": {}}, "facts in .* unknown field 'weather'"),
    "area no object": (lambda d: d | {"host": []}, "facts.host in the facts file is no object"),
    "unknown field": (lambda d: d | {"host": {"x": 1}}, "facts.host in .* unknown field 'x'"),
    "wrong type": (lambda d: d | {"host": {"cores": "8"}}, "facts.host.cores .* '8', not int"),
    "bool for a number": (lambda d: d | {"host": {"cores": True}}, "facts.host.cores .* not int"),
    "float for a number": (lambda d: d | {"host": {"cores": 8.5}}, "facts.host.cores .* not int"),
    "number for text": (lambda d: d | {"tool": 1}, "facts.tool in the facts file is 1, not str"),
    "null in text": (lambda d: d | {"tool": None}, "facts.tool in the facts file is None"),
    "no list": (lambda d: d | {"nvidia": {"gpus": {}}}, "facts.nvidia.gpus .* no list"),
    "in a list": (
        lambda d: d | {"nvidia": {"gpus": [{"index": 0}, {"index": "a"}]}},
        r"facts.nvidia.gpus\[1\].index",
    ),
    "field missing": (
        lambda d: d | {"nvidia": {"gpus": [{"name": "x"}]}},
        r"facts.nvidia.gpus\[0\].index is missing",
    ),
    "in a mapping": (
        lambda d: d | {"host": {"tools": {"gcc": {"path": 3}}}},
        "facts.host.tools.'gcc'.path",
    ),
    "nested list": (
        lambda d: d | {"nvidia": {"topology": [["X", 1]]}},
        r"facts.nvidia.topology\[0\]\[1\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_facts_file_is_refused_with_its_place(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(DoctorError, match=message):
        from_json(change(copy.deepcopy(GOOD)))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(anything, st.dictionaries(st.sampled_from([*AREAS, "unknown", "tool", "root"]), anything))
def test_any_json_is_read_or_refused(whole: Any, areas: dict[str, Any]) -> None:
    for data in (whole, {"schema": SCHEMA} | areas):
        try:
            assert isinstance(from_json(data), Facts)
        except DoctorError as error:
            assert str(error)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_one_wrong_value_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    changed = copy.deepcopy(GOOD)
    place: Any = changed
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(anything)
    try:
        assert isinstance(from_json(changed), Facts)
    except DoctorError as error:
        assert "facts" in str(error)


def test_equal_facts_are_equal_whatever_the_order_of_keys() -> None:
    data = to_json(Facts(network=None, host=Host(os="Linux", cores=2)))
    turned = dict(reversed(list(data.items())))
    assert from_json(turned) == from_json(data)


def test_an_endpoint_needs_its_name() -> None:
    with pytest.raises(TypeError):
        Endpoint(kind="python", host="", reachable=True)  # type: ignore[call-arg]
