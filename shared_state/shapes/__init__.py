"""Shapes of the operators' API: a node answers in them, commands read them. Times are unix seconds, money is USD."""
