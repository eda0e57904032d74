"""The crash explorer: small workloads on real processes that are killed, stopped and cut off as a seed says.

plan (pure, from a seed) ─▶ drive (processes, clients, disturbances) ─▶ history (all that was written) ─▶ checks (pure)
"""
