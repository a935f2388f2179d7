"""The ELF reader against pyelftools on real files, and against files that were damaged."""

from __future__ import annotations

import io
import struct
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from elf_files import Watched, build_library, elf_around, needs_gcc, patched
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doctor.machine.elf import TABLE_LIMIT, Buffer, Dynamic, Elf, ElfError
from doctor.machine.elf_symbols import SymbolTable
from doctor.machine.reader import FileReader

LIBRARY_FOLDERS = ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib64", "/lib64")
NAMES = ("value", "value_two", "other", "no_such_symbol")
SECTIONS_AT, SECTION_COUNT_AT, NAMES_INDEX_AT = 40, 60, 62
SEGMENTS_AT, SEGMENT_SIZE_AT, SEGMENT_COUNT_AT = 32, 54, 56


def system_libraries() -> list[Path]:
    """The C and C++ libraries, and an extension module of this Python."""
    found = []
    for name in ("libc.so.6", "libstdc++.so.6", "libm.so.6"):
        paths = (Path(folder, name) for folder in LIBRARY_FOLDERS)
        found += [path for path in paths if path.is_file()][:1]
    dynload = Path(sysconfig.get_paths()["stdlib"], "lib-dynload")
    return found + sorted(dynload.glob("_ssl*.so"))[:1] + sorted(dynload.glob("_json*.so"))[:1]


def read_all(data: Buffer) -> tuple[object, ...]:
    """Everything that the reader can tell."""
    elf = Elf(data)
    return (
        elf.sections(),
        elf.dynamic(),
        symbols(elf, "value"),
        elf.section(".dynstr"),
        elf.find(b"value"),
    )


def symbols(elf: Elf, prefix: str, names: Iterable[str] = NAMES) -> tuple[set[str], set[str]]:
    """Which of some names it defines, and which it asks of others, weak ones left out."""
    table = SymbolTable(elf)
    wanted = {name for name in names if name.startswith(prefix)}
    asked = set(table.asked((prefix.encode(),)))
    return (wanted - table.lacks(wanted) if table.readable else set()), asked


def oracle_dynamic(elf: ELFFile) -> Dynamic:
    """The dynamic section as pyelftools reads it."""
    section = next(s for s in elf.iter_sections() if isinstance(s, DynamicSection))
    tags = list(section.iter_tags())
    single = {t.entry.d_tag: t for t in tags}
    versions = [
        (need.name, version.name)
        for table in elf.iter_sections()
        if isinstance(table, GNUVerNeedSection)
        for need, items in table.iter_versions()
        for version in items
    ]

    def paths(tag: str, field: str) -> tuple[str, ...]:
        return tuple(getattr(single[tag], field).split(":")) if tag in single else ()

    return Dynamic(
        needed=tuple(t.needed for t in tags if t.entry.d_tag == "DT_NEEDED"),
        soname=single["DT_SONAME"].soname if "DT_SONAME" in single else None,
        rpath=paths("DT_RPATH", "rpath"),
        runpath=paths("DT_RUNPATH", "runpath"),
        versions=tuple(versions),
    )


def oracle_symbols(elf: ELFFile, prefix: str) -> tuple[set[str], set[str]]:
    """Defined and undefined dynamic symbols that begin so, but for those that may stay undefined."""
    found: tuple[set[str], set[str]] = (set(), set())
    for symbol in elf.get_section_by_name(".dynsym").iter_symbols():
        undefined = symbol["st_shndx"] == "SHN_UNDEF"
        if symbol.name.startswith(prefix) and not (
            undefined and symbol["st_info"]["bind"] == "STB_WEAK"
        ):
            found[undefined].add(symbol.name)
    return found


def assert_same_as_oracle(path: Path, prefixes: tuple[str, ...]) -> None:
    data = path.read_bytes()
    ours, theirs = Elf(data), ELFFile(io.BytesIO(data))
    assert ours.dynamic() == oracle_dynamic(theirs)
    assert [(s.name, s.offset, s.size, s.link) for s in ours.sections()] == [
        (s.name, s["sh_offset"], s["sh_size"], s["sh_link"]) for s in theirs.iter_sections()
    ]
    for prefix in prefixes:
        defined, asked = oracle_symbols(theirs, prefix)
        # names of others, and names that are the tails and beginnings of its own
        others = {name[1:] for name in defined} | {f"{name}_" for name in defined} | asked
        names = (others - oracle_symbols(theirs, "")[0]) | defined
        assert symbols(ours, prefix, names) == (defined, asked), prefix
    assert (ours.bits, ours.machine) == (theirs.elfclass, theirs.get_machine_arch_name())


ELFFile.get_machine_arch_name = lambda self: {  # type: ignore[attr-defined]
    "EM_X86_64": "x86_64",
    "EM_AARCH64": "aarch64",
}[self["e_machine"]]


@pytest.mark.parametrize("path", system_libraries(), ids=lambda p: p.name.partition(".")[0])
def test_system_libraries_read_as_pyelftools_does(path: Path) -> None:
    assert_same_as_oracle(path, ("__cxa_", "_ZNSs", "PyUnicode_", "no_such_symbol"))


def test_names_that_the_linker_stored_inside_longer_ones() -> None:
    """`memcpy` lies in libc's strings as the tail of `wmemcpy`, `nccl…` as that of `pnccl…`."""
    assert_same_as_oracle(system_libraries()[0], ("mem",))


@needs_gcc
def test_both_names_of_nccl_are_seen(tmp_path: Path) -> None:
    code = "int ncclSend(void) { return 1; }\nint pncclSend(void) { return 1; }\n"
    path = build_library(tmp_path / "libnccl.so.2", code=code, flags=["-Wl,-O2"])
    assert symbols(Elf(path.read_bytes()), "nccl", ["ncclSend", "pncclSend"]) == (
        {"ncclSend"},
        set(),
    )


CODE = """
extern int other(void);
int value(void) { return other(); }
int value_two(void) { return 2; }
"""


@needs_gcc
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rpath": "$ORIGIN/lib:/opt/a"}, Dynamic(rpath=("$ORIGIN/lib", "/opt/a"))),
        ({"runpath": "$ORIGIN/../lib:/opt/b"}, Dynamic(runpath=("$ORIGIN/../lib", "/opt/b"))),
        ({"soname": "libother.so.7"}, Dynamic(soname="libother.so.7")),
        ({"soname": None}, Dynamic()),
        ({"flags": ["-lc"]}, Dynamic(needed=("libc.so.6",))),
        ({"flags": ["-Wl,--hash-style=sysv"]}, Dynamic()),
    ],
    ids=["rpath", "runpath", "soname", "no soname", "libc", "old hash"],
)
def test_built_libraries(tmp_path: Path, options: dict[str, object], expected: Dynamic) -> None:
    path = build_library(tmp_path / "libbuilt.so", code=CODE, **options)  # type: ignore[arg-type]
    assert_same_as_oracle(path, ("value", "other", "val"))
    found = Elf(path.read_bytes()).dynamic()
    assert (found.rpath, found.runpath) == (expected.rpath, expected.runpath)
    assert set(expected.needed) <= set(found.needed)
    if "soname" in options:
        assert found.soname == expected.soname
    assert symbols(Elf(path.read_bytes()), "value") == ({"value", "value_two"}, set())
    assert symbols(Elf(path.read_bytes()), "other") == (set(), {"other"})


@needs_gcc
def test_versions_that_it_needs_of_its_own_libraries(tmp_path: Path) -> None:
    script = tmp_path / "versions.map"
    script.write_text("OURS_1.0 { global: value; local: *; };\nOURS_2.0 { global: second; };\n")
    code = "int value(void) { return 1; }\nint second(void) { return 2; }\n"
    flags = [f"-Wl,--version-script={script}"]
    below = build_library(tmp_path / "libours.so.1", code=code, flags=flags)
    user = build_library(
        tmp_path / "libuser.so",
        code="int value(void); int second(void); int f(void) { return value() + second(); }",
        needs=[below],
    )
    assert_same_as_oracle(user, ("value", "second", "f"))
    assert SymbolTable(Elf(below.read_bytes())).versions() == {
        "libours.so.1",
        "OURS_1.0",
        "OURS_2.0",
    }
    versions = Elf(user.read_bytes()).dynamic().versions
    assert set(versions) == {("libours.so.1", "OURS_1.0"), ("libours.so.1", "OURS_2.0")}


@needs_gcc
def test_a_file_without_section_table_still_tells_what_it_needs(tmp_path: Path) -> None:
    data = build_library(tmp_path / "libx.so", runpath="/opt/x", flags=["-lc"]).read_bytes()
    stripped = patched(patched(data, SECTIONS_AT, "<Q", 0), SECTION_COUNT_AT, "<H", 0)
    assert Elf(stripped).dynamic() == Elf(data).dynamic()
    assert Elf(stripped).sections() == ()
    assert symbols(Elf(stripped), "value") == (set(), set())
    assert Elf(stripped).find(b"/opt/x")


@needs_gcc
def test_a_static_object_needs_nothing(tmp_path: Path) -> None:
    path = build_library(tmp_path / "object.o", flags=["-c"], soname=None, code="int x;")
    if path.read_bytes()[16] != 1:
        pytest.skip("this gcc made no object file of it")
    assert Elf(path.read_bytes()).dynamic() == Dynamic()


def test_find_looks_into_one_section_only() -> None:
    elf = Elf(elf_around([(".rodata", b"here it is"), (".data", b"elsewhere")]))
    assert elf.find(b"here it is")
    assert not elf.find(b"elsewhere")
    assert elf.find(b"elsewhere", ".data")
    assert not elf.find(b"here", ".absent")
    found = elf.section(".data")
    assert found is not None
    assert elf.data[found.offset : found.offset + found.size] == b"elsewhere"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"MZ" + bytes(200),
        b"\x7fELF\x02\x01" + bytes(57),
        b"\x7fELF\x03\x01" + bytes(60),
        b"\x7fELF\x02\x00" + bytes(60),
        b"!<arch>\n" + bytes(100),
    ],
    ids=["empty", "magic", "other", "short", "class", "order", "archive"],
)
def test_what_is_no_elf_file(data: bytes) -> None:
    with pytest.raises(ElfError):
        Elf(data)


def test_class_and_byte_order_of_other_machines() -> None:
    wide = b"\x7fELF\x02\x02\x01" + bytes(9) + struct.pack(">HH", 3, 21) + bytes(60)
    narrow = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HH", 3, 40) + bytes(60)
    strange = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 999) + bytes(60)
    assert [(Elf(d).bits, Elf(d).machine) for d in (wide, narrow, strange)] == [
        (64, "ppc64le"),
        (32, "armv7l"),
        (64, "machine 999"),
    ]


# --- damage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A library that has all that the reader looks at, in about 14 kB."""
    folder = tmp_path_factory.mktemp("elf")
    flags = ["-lc", "-Wl,-z,noseparate-code"]
    code = "#include <stdlib.h>\nvoid *value(void) { return realpath(0, 0); }\n"
    return build_library(
        folder / "libsmall.so", code=code, runpath="$ORIGIN:/opt", flags=flags
    ).read_bytes()


def assert_only_elf_error(data: Buffer) -> None:
    watched = Watched(data) if isinstance(data, bytes) else None
    try:
        read_all(watched or data)
    except ElfError as error:
        assert str(error)
    assert watched is None or watched.looks < 1000


@needs_gcc
def test_cut_at_every_byte(small: bytes) -> None:
    assert read_all(small)
    failed = 0
    for end in range(len(small)):
        try:
            read_all(small[:end])
        except ElfError:
            failed += 1
    # the section table stands at the end: no cut goes unnoticed
    assert failed == len(small)


@needs_gcc
@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_bytes(small: bytes, data: st.DataObject) -> None:
    # header, program headers and section table decide most; half of the changes hit them
    places = st.one_of(
        st.integers(0, 64 + 56 * 10),
        st.integers(len(small) - 64 * 30, len(small) - 1),
        st.integers(0, len(small) - 1),
    )
    changed = bytearray(small)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        changed[place] = byte
    assert_only_elf_error(bytes(changed))


@needs_gcc
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    offset=st.one_of(st.integers(0, 120), st.integers(0, 1800)),
    value=st.sampled_from([0, 1, 2**15, 2**31, 2**32 - 1, 2**47, 2**63 - 1, 2**63, 2**64 - 1]),
)
def test_huge_numbers_anywhere(small: bytes, offset: int, value: int) -> None:
    assert_only_elf_error(patched(small, min(offset * 8, len(small) - 8), "<Q", value))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=600))
def test_noise_behind_a_header(noise: bytes) -> None:
    assert_only_elf_error(b"\x7fELF\x02\x01\x01" + bytes(9) + noise.ljust(64, b"\0"))


HUGE = {
    "sections_at": (SECTIONS_AT, "<Q", 2**64 - 64),
    "sections_at beyond the file": (SECTIONS_AT, "<Q", 2**40),
    "section_count": (SECTION_COUNT_AT, "<H", 65535),
    "names_index": (NAMES_INDEX_AT, "<H", 65535),
    "segments_at": (SEGMENTS_AT, "<Q", 2**63),
    "segment_size 0": (SEGMENT_SIZE_AT, "<H", 0),
    "segment_count": (SEGMENT_COUNT_AT, "<H", 65535),
}


@needs_gcc
@pytest.mark.parametrize("where", HUGE)
def test_huge_counts_in_the_header(small: bytes, where: str) -> None:
    assert_only_elf_error(patched(small, *HUGE[where]))


@needs_gcc
def test_sections_with_an_impossible_place(small: bytes) -> None:
    (at,) = struct.unpack_from("<Q", small, SECTIONS_AT)
    (count,) = struct.unpack_from("<H", small, SECTION_COUNT_AT)
    for i in range(count):
        for field in (24, 32):
            for value in (2**40, 2**63 + 5, 2**64 - 1):
                assert_only_elf_error(patched(small, at + 64 * i + field, "<Q", value))
        # the file ends within the section, and within an entry of it, too
        assert_only_elf_error(patched(small, at + 64 * i + 24, "<Q", len(small) - 31))


def as_file(folder: Path, data: bytes) -> Iterator[FileReader]:
    path = folder / "damaged.so"
    path.write_bytes(data)
    with path.open("rb") as file:
        yield FileReader(file.fileno())


@needs_gcc
@pytest.mark.parametrize("value", [2**40, 2**63 + 5, 2**64 - 1])
def test_a_file_is_read_as_bytes_are(tmp_path: Path, small: bytes, value: int) -> None:
    """The names' section, whose place every name is looked up from, lies nowhere."""
    (at,) = struct.unpack_from("<Q", small, SECTIONS_AT)
    (index,) = struct.unpack_from("<H", small, NAMES_INDEX_AT)
    for data in (small, patched(small, at + 64 * index + 24, "<Q", value)):
        for view in as_file(tmp_path, data):
            assert_only_elf_error(view)


def test_a_run_of_version_records_that_point_at_each_other() -> None:
    """Each of many records claims 65,535 entries; the reader must not walk all pairs."""
    records = 700
    # as a record: count 65,535, first entry 16 further, next record 16 further;
    # as an entry: its name is the string at 16, next entry 16 further
    record = struct.pack("<HHIII", 1, 0xFFFF, 0, 16, 16)
    strings = bytes(16) + b"name\0"
    area_at = 64 + 2 * 56 + 16 * 6
    strings_at = area_at + len(record) * records
    tags = [(5, strings_at), (10, len(strings)), (0x6FFFFFFE, area_at), (0x6FFFFFFF, records)]
    size = strings_at + len(strings)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096)
    head += struct.pack("<IIQQQQQQ", 2, 4, 64 + 2 * 56, 0, 0, 16 * 6, 16 * 6, 8)
    head += b"".join(struct.pack("<qQ", *tag) for tag in [*tags, (0, 0), (0, 0)])
    try:
        found = Elf(head + record * records + strings).dynamic().versions
    except ElfError:
        return
    assert len(found) <= TABLE_LIMIT
