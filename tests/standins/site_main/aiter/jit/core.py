"""Finds and merges the tables: a variable replaces them, and a list of paths is merged into one file."""

import os

AITER_ROOT_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AITER_CONFIG_FMOE = os.getenv("AITER_CONFIG_FMOE", f"{AITER_ROOT_DIR}/aiter/configs/tuned_fmoe.csv")


class AITER_CONFIG:
    @property
    def AITER_CONFIG_FMOE_FILE(self):
        import csv  # here, as the real one's pandas is: a lookup without the rest runs this class alone

        merged = "/tmp/aiter_configs/"
        rows, columns = {}, []
        for path in AITER_CONFIG_FMOE.split(os.pathsep):
            with open(path, newline="") as file:
                reader = csv.DictReader(file)
                columns = columns or list(reader.fieldnames)
                for row in reader:
                    key = tuple(row[name] for name in columns[: columns.index("block_m")])
                    if key in rows:
                        raise RuntimeError(f"duplicate shape entries in {path}: {key}")
                    rows[key] = row
        os.makedirs(merged, exist_ok=True)
        with open(merged + "tuned_fmoe.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows.values())
        return merged + "tuned_fmoe.csv"


AITER_CONFIGS = AITER_CONFIG()
