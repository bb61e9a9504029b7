"""Phases 1-3: steps, criteria, reports, and the sites they run on."""
