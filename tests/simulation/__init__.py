"""Thousands of random schedules of the real buffer and the real flush, each from a seed, each judged by the auditor.

Simulated are Temporal (messages late, lost, twice or out of order; activities that time out and go on all the same;
workers that crash; continue-as-new), the callers (both doors, parcels, retries, cancellations, ids reused) and the
database (down, losing connections before or after a commit, refusing requests). Nothing waits for real time, nothing
is random but by its seed: `python -m tests.simulation --seed 4711 --trace` shows again what a seed did.
"""
