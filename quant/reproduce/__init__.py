"""Measurements of what the papers measured. Needs the extra `reproduce`."""

from golden_model.optional import commands_need

commands_need("matplotlib")
