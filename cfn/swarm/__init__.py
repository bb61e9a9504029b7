"""Agents as a team: topologies, coordinators, runs."""
