"""Hypothesis on a machine that does other things too: no deadline for one example; the test's timeout is enough."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("cfn", deadline=None)
settings.load_profile("cfn")
