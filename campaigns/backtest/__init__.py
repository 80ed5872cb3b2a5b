"""Backtests: campaigns replayed on labelled data with the production code, beside other programs on equal terms."""

from campaigns.backtest.curves import readable, summarise
from campaigns.backtest.protocol import Protocol, parse_seeds, read_initial_ids
from campaigns.backtest.runs import backtest
from campaigns.backtest.strategies import join, parse_against, parse_strategies

__all__ = [
    "Protocol",
    "backtest",
    "join",
    "parse_against",
    "parse_seeds",
    "parse_strategies",
    "read_initial_ids",
    "readable",
    "summarise",
]
