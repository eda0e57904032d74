"""The seeded crash explorer: kills real processes at named places under small workloads, and checks P1 to P3.

seed -> plan (what is submitted, what is killed when) -> scene (real processes, one database) -> history -> checks
"""
