"""Recording and replaying of whole tables, for the benchmarks beside this folder."""
