"""Make a Debian base image by hand: ``python containers/base.py NAME PACKAGE...`` prints its tag.

The work is done in :mod:`cfn.rollout.base_image`, which ships in the wheel; a checkout needs nothing installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cfn.rollout.base_image import ensure, main

__all__ = ["ensure"]

if __name__ == "__main__":
    sys.exit(main())
