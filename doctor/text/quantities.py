"""How quantities are written, everywhere alike: memory in GiB, disk and downloads in GB, times, counts."""

from __future__ import annotations

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def memory(mib: float) -> str:
    """Memory, of a host, a device or a process, given in MiB: `512 MiB`, `15.9 GiB`, `768 GiB`."""
    return _scaled(mib, 1024, ("MiB", "GiB", "TiB"))


def disk(megabytes: float) -> str:
    """Disk space or a download, given in MB of 10^6 bytes: `850 MB`, `3.2 GB`, `128 GB`."""
    return _scaled(megabytes, 1000, ("MB", "GB", "TB"))


def disk_of_mib(mib: float) -> str:
    """The same, given in MiB, as facts have free space."""
    return disk(mib * 1.048576)


def _scaled(value: float, base: int, units: tuple[str, str, str]) -> str:
    small, large, huge = units
    if round(value) < base:
        # the least that is said of something that is there
        return f"{max(round(value), 1 if value > 0 else 0)} {small}"
    scaled, unit = value / base, large
    if scaled >= 10 * base:
        scaled, unit = scaled / base, huge
    exact = f"{scaled:.1f}".removesuffix(".0") if scaled < 99.95 else f"{scaled:.0f}"
    return f"{exact} {unit}"


def about(seconds: float) -> str:
    """An estimate: `less than a minute`, `about 1 minute`, `about 5.2 hours`, `about 12 days`."""
    if seconds < MINUTE:
        return "less than a minute"
    return f"about {estimate(seconds)}"


def estimate(seconds: float) -> str:
    """The same where the place says that it is one: `5 minutes`, `17 hours`, `under 1 minute`."""
    if seconds < MINUTE:
        return "under 1 minute"
    if seconds < 100 * MINUTE:
        return count(round(seconds / MINUTE), "minute")
    if seconds < 3 * DAY:
        return f"{_hours(seconds)} hours"
    return count(round(seconds / DAY), "day")


def brief(seconds: float) -> str:
    """The same in a column of a table: `<1 min`, `48 min`, `5.2 h`, `12 d`."""
    if seconds < MINUTE:
        return "<1 min"
    if seconds < 100 * MINUTE:
        return f"{round(seconds / MINUTE)} min"
    return f"{_hours(seconds)} h" if seconds < 3 * DAY else f"{round(seconds / DAY)} d"


def _hours(seconds: float) -> str:
    hours = seconds / HOUR
    return f"{hours:.1f}".removesuffix(".0") if hours < 9.95 else f"{hours:.0f}"


def clock(seconds: float) -> str:
    """What something took, or what is left: `7 s`, `3 min 05 s`, `45 min`, `3 h 05 min`, `2 d 04 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / MINUTE)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: `1 error`, `2 errors`, `no notes`, `8 GPUs`; `plural` where it is no mere s."""
    many = plural or (noun + "es" if noun.endswith(("s", "x", "ch", "sh")) else noun + "s")
    return f"{number or 'no'} {noun if number == 1 else many}"


def short(number: float) -> str:
    """A large number in short: `36.7 M`, `5.2 B`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        # what would be written as 1000.0 of one unit is 1.0 of the next
        if number >= 0.99995 * size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
