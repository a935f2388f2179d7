"""The Python module of the crate, for tests that need it: without it they are skipped.

The folder `rustbpe` of the checkout can be imported, too, and has nothing in it; nor is the published package enough.
"""

from __future__ import annotations

import pytest

rustbpe = pytest.importorskip("rustbpe")
if not hasattr(rustbpe, "NANOCHAT_PATTERN"):
    pytest.skip("rustbpe is not built here", allow_module_level=True)
