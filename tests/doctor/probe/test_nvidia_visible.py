"""What CUDA_VISIBLE_DEVICES leaves, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor.facts import Gpu
from doctor.probe.nvidia.visibility import Visible, cuda_order, visible_devices


def gpu(
    index: int,
    cc: str | None = "9.0",
    memory: int | None = 81559,
    mig: tuple[str, ...] | None = None,
    uuid: str | None = None,
) -> Gpu:
    """A GPU at its own place on the bus."""
    return Gpu(
        index=index,
        uuid=uuid or f"GPU-{index}{index}{index}{index}aaaa-0000-1111-2222-333344445555",
        bus_id=f"00000000:{0x10 + index:02X}:00.0",
        compute_capability=cc,
        memory_total=memory,
        mig_mode="Disabled" if mig is None else "Enabled",
        mig_instances=mig or (),
    )


FOUR = [gpu(i) for i in range(4)]
MIXED = [gpu(0, "6.1", 8192), gpu(1, "8.9", 24564), gpu(2, "8.6", 24576), gpu(3, "8.9", 16376)]
INSTANCE = "MIG-7c1d1d2e-0000-1111-2222-333344445555"
SECOND = "MIG-8c1d1d2e-0000-1111-2222-333344445555"
MIG = [gpu(0), gpu(1, mig=(f"3g.40gb {INSTANCE}", f"1g.10gb {SECOND}"))]
TWINS = [
    gpu(0, uuid="GPU-aaaa0000-1"),
    gpu(1, uuid="GPU-aaaa0000-2"),
    gpu(2, uuid="GPU-bbbb0000-1"),
]


@pytest.mark.parametrize(
    ("mask", "indices", "invalid"),
    [
        (None, (0, 1, 2, 3), ()),
        ("", (), ()),
        ("-1", (), ()),
        ("none", (), ()),
        ("NoDevFiles", (), ()),
        ("0", (0,), ()),
        ("2,0", (2, 0), ()),
        (" 1 , 3 ", (1, 3), ()),
        ("0,1,2,3", (0, 1, 2, 3), ()),
        ("4", (), ("4",)),
        ("0,9,1", (0,), ("9",)),
        ("1,-1,2", (1,), ()),
        ("0,,1", (0,), ()),
        ("0,", (0,), ()),
        ("a", (), ("a",)),
        ("0,x,1", (0,), ("x",)),
        ("0 1", (), ("0 1",)),
        ("cuda:0", (), ("cuda:0",)),
        ("99999999999999999999", (), ("99999999999999999999",)),
    ],
)
def test_numbers(mask: str | None, indices: tuple[int, ...], invalid: tuple[str, ...]) -> None:
    env = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    assert visible_devices(env, FOUR) == Visible(indices, invalid)


@pytest.mark.parametrize("mask", ["0,0", "0,1,1", "GPU-0000aaaa,GPU-0000"])
def test_a_repeated_device_hides_all(mask: str) -> None:
    """torch.cuda._parse_visible_devices: "Repeated id results in empty set"."""
    assert visible_devices({"CUDA_VISIBLE_DEVICES": mask}, FOUR).indices == ()


@pytest.mark.parametrize("mask", ["²", "0,³", "①"])
def test_digits_that_are_no_numbers(mask: str) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": mask}, FOUR).invalid


@pytest.mark.parametrize(
    ("mask", "indices", "invalid"),
    [
        ("GPU-aaaa0000-1", (0,), ()),
        ("GPU-bbbb", (2,), ()),
        ("GPU-b", (2,), ()),
        ("GPU-BBBB0000", (2,), ()),
        ("GPU-aaaa", (), ("GPU-aaaa",)),
        ("GPU-cccc", (), ("GPU-cccc",)),
        ("GPU-bbbb,GPU-aaaa0000-2", (2, 1), ()),
        ("GPU-bbbb,0", (2, 0), ()),
        ("bbbb0000", (), ("bbbb0000",)),
    ],
)
def test_uuids(mask: str, indices: tuple[int, ...], invalid: tuple[str, ...]) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": mask}, TWINS) == Visible(indices, invalid)


@pytest.mark.parametrize(
    ("mask", "indices", "invalid"),
    [
        (INSTANCE, (1,), ()),
        (f"{INSTANCE},{SECOND}", (1,), ()),
        ("0", (0,), ()),
        ("MIG-none", (), ("MIG-none",)),
        (None, (0, 1), ()),
    ],
)
def test_mig_devices(mask: str | None, indices: tuple[int, ...], invalid: tuple[str, ...]) -> None:
    env = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    assert visible_devices(env, MIG) == Visible(indices, invalid)


def test_a_gpu_in_mig_mode_without_instances_is_no_device() -> None:
    gpus = [gpu(0, mig=()), gpu(1)]
    assert visible_devices({}, gpus) == Visible((1,), ())
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "0"}, gpus) == Visible((1,), ())


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, [1, 3, 2, 0]),
        ("FASTEST_FIRST", [1, 3, 2, 0]),
        ("PCI_BUS_ID", [0, 1, 2, 3]),
        ("", [1, 3, 2, 0]),
    ],
)
def test_order(order: str | None, expected: list[int]) -> None:
    assert [g.index for g in cuda_order(MIXED, order)] == expected
    env = {"CUDA_VISIBLE_DEVICES": "0"} | ({"CUDA_DEVICE_ORDER": order} if order else {})
    assert visible_devices(env, MIXED).indices == (expected[0],)


def test_equal_cards_keep_the_order_of_the_bus() -> None:
    """Free memory differs by a few MiB from card to card; that makes none the faster."""
    cards = [gpu(0, memory=24564), gpu(1, memory=24576), gpu(2, memory=24560)]
    assert [g.index for g in cuda_order(cards, None)] == [0, 1, 2]


def test_a_few_mib_never_decide() -> None:
    cards = [gpu(0, memory=23999), gpu(1, memory=24001)]
    assert [g.index for g in cuda_order(cards, None)] == [0, 1]


def test_bus_order_is_by_number_not_by_index() -> None:
    swapped = [Gpu(index=0, bus_id="00000000:C1:00.0"), Gpu(index=1, bus_id="00000000:01:00.0")]
    assert [g.index for g in cuda_order(swapped, "PCI_BUS_ID")] == [1, 0]


def test_ten_beats_nine() -> None:
    cards = [gpu(0, "9.0"), gpu(1, "10.0"), gpu(2, "12.0"), gpu(3, None)]
    assert [g.index for g in cuda_order(cards, None)] == [2, 1, 0, 3]


entries = st.sampled_from(["0", "1", "3", "4", "-1", "", "GPU-0000", "GPU-", "MIG-", "x", " 2 "])


@settings(deadline=None, max_examples=200)
@given(
    st.one_of(st.lists(entries, max_size=6).map(",".join), st.text("0123,-GPUMI x", max_size=20))
)
def test_any_mask(mask: str) -> None:
    found = visible_devices({"CUDA_VISIBLE_DEVICES": mask}, FOUR)
    assert len(set(found.indices)) == len(found.indices)
    assert set(found.indices) <= {0, 1, 2, 3}
    assert len(found.invalid) <= 1
    assert visible_devices({"CUDA_VISIBLE_DEVICES": mask}, []).indices == ()
