"""Whether a folder of features or of a run is as it was written.

deepclust verify runs/my_run               every file is compared with its checksum
deepclust verify features runs             any number of folders, and what lies in them
"""

from __future__ import annotations

from deepclust.cli.arguments import Arguments, path
from deepclust.runtime.errors import InputError, one_line_errors


def main() -> None:
    with one_line_errors():
        parser = Arguments("verify", __doc__)
        parser.add_argument("folders", nargs="+", type=path)
        options = parser.parse_args()
        from deepclust.runs.verification import verify

        damaged = []
        for folder in options.folders:
            found = verify(folder)
            damaged += found.damaged
            told = f"{folder}: {found.n_compared} files compared with their checksums"
            if found.n_read:
                told += f", {found.n_read} without one can be read"
            print("\n".join([told, *(f"  {line}" for line in found.damaged)]))
            if found.missing:
                print("\n".join([f"  {path} was removed" for path in found.missing]))
        if damaged:
            count = f"{len(damaged)} file is" if len(damaged) == 1 else f"{len(damaged)} files are"
            raise InputError(f"{count} damaged: restore from a copy, or remove and make again")


if __name__ == "__main__":
    main()
