"""Decides, before the money is spent, which data a language model should be annealed on."""
