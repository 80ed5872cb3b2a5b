"""Backtests: campaigns replayed on labelled data with the production code, beside other programs on equal terms."""

from campaigns.backtest.curves import readable, summarise
from campaigns.backtest.levels import parse_cost, parse_levels
from campaigns.backtest.protocol import Protocol, parse_seeds, read_initial_ids
from campaigns.backtest.runs import backtest
from campaigns.backtest.strategies import join, ladder_strategies, parse_against, parse_strategies

__all__ = [
    "Protocol",
    "backtest",
    "join",
    "ladder_strategies",
    "parse_against",
    "parse_cost",
    "parse_levels",
    "parse_seeds",
    "parse_strategies",
    "read_initial_ids",
    "readable",
    "summarise",
]
