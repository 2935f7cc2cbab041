"""From a PyTorch network to an integer network and its deployment image. Needs the extra `quant`."""

import sys

from golden_model.optional import torch_installed

if sys.argv[:1] == ["-m"] and not torch_installed():  # a command of this package is about to run
    print("error: the commands of quant need PyTorch, which is not installed: pip install '.[quant]'", file=sys.stderr)
    raise SystemExit(2)
