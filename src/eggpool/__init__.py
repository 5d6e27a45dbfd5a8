"""EggPool pools many accounts at many LLM providers behind one endpoint."""

__version__ = "1.0.0.dev0"
