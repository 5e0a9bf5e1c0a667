"""The parts of `scripts/bench.py`: each measures one group of ratios in interleaved runs."""
