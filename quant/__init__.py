"""From a PyTorch network to an integer network and its deployment image. Needs the extra `quant`."""

from golden_model.optional import commands_need

commands_need("torch")
