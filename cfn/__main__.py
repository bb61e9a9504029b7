"""``python -m cfn``: the same as the command ``cfn``, where the scripts folder is not on the path."""

import sys

from cfn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
