"""Writes agreement.json: what gbstats 0.8.0 (PyPI) answers to questions that shared/tests/gbstats.rs asks us too.

    python3 -m venv VENV && VENV/bin/pip install gbstats==0.8.0
    VENV/bin/python shared/tests/gbstats/generate.py ../shared/data > shared/tests/gbstats/agreement.json

Generated data stand in the file (seeded). Of the real data only the answers do: the test reads the data itself.
"""

import csv
import json
import random
import sys
from collections import defaultdict

from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig, GaussianPrior
from gbstats.frequentist.tests import (
    FrequentistConfig,
    SequentialConfig,
    SequentialTwoSidedTTest,
    TwoSidedTTest,
)
from gbstats.models.statistics import (
    ProportionStatistic,
    RatioStatistic,
    RegressionAdjustedStatistic,
    SampleMeanStatistic,
)
from gbstats.utils import check_srm

TUNINGS = [500.0, 5000.0]
PRIOR_STD_DEV = 0.1


def answers(a, b):
    """All tests of treatment b against control a."""
    found = {}
    for kind in ["absolute", "relative"]:
        fixed = TwoSidedTTest(a, b, FrequentistConfig(difference_type=kind, alpha=0.05))
        result = fixed.compute_result()
        if result.error_message:
            return None
        looks = []
        for tuning in TUNINGS:
            config = SequentialConfig(difference_type=kind, alpha=0.05, sequential_tuning_parameter=tuning)
            look = SequentialTwoSidedTTest(a, b, config).compute_result()
            looks.append({"tuning": tuning, "p": float(look.p_value), "ci": [float(x) for x in look.ci]})
        found[kind] = {
            "estimate": float(result.expected),
            "std_error": float(result.uplift.stddev),
            "dof": float(fixed.dof),
            "p": float(result.p_value),
            "ci": [float(x) for x in result.ci],
            "sequential": looks,
        }
    priors = {"flat": GaussianPrior(), "normal": GaussianPrior(0, PRIOR_STD_DEV**2, True)}
    for name, prior in priors.items():
        config = EffectBayesianConfig(difference_type="relative", alpha=0.05, prior_effect=prior)
        result = EffectBayesianABTest(a, b, config).compute_result()
        found[name] = {
            "chance": float(result.chance_to_win),
            "mean": float(result.expected),
            "ci": [float(x) for x in result.ci],
            "loss_of_control": float(result.risk[0]),
            "loss_of_treatment": float(result.risk[1]),
        }
    return found


def proportion(n, hits):
    return ProportionStatistic(n=n, sum=hits)


def total(xs, ys=None):
    return float(sum(x * y for x, y in zip(xs, ys if ys is not None else [1] * len(xs))))


def mean(xs):
    return SampleMeanStatistic(n=len(xs), sum=total(xs), sum_squares=total(xs, xs))


def ratio(clicks, impressions):
    return RatioStatistic(
        n=len(clicks),
        m_statistic=mean(clicks),
        d_statistic=mean(impressions),
        m_d_sum_of_products=total(clicks, impressions),
    )


def adjusted(clicks, past):
    return RegressionAdjustedStatistic(
        n=len(clicks),
        post_statistic=mean(clicks),
        pre_statistic=mean(past),
        post_pre_sum_of_products=total(clicks, past),
        theta=0,
    )


def counts(rng):
    sizes = [(1000, 1000, 0.05, 0.067), (5000, 5100, 0.05, 0.05), (40000, 20000, 0.01, 0.011)]
    sizes += [(rng.randint(200, 50000), rng.randint(200, 50000), rng.uniform(0.02, 0.4), rng.uniform(0.02, 0.4)) for _ in range(9)]
    cases = []
    for n_a, n_b, p_a, p_b in sizes:
        k_a = max(1, round(n_a * p_a + rng.gauss(0, (n_a * p_a * (1 - p_a)) ** 0.5)))
        k_b = max(1, round(n_b * p_b + rng.gauss(0, (n_b * p_b * (1 - p_b)) ** 0.5)))
        cases.append({"a": [n_a, k_a], "b": [n_b, k_b], "want": answers(proportion(n_a, k_a), proportion(n_b, k_b))})
    return cases


def users(rng, n, scale):
    """Rows of clicks, impressions, past clicks, past impressions; users differ, and keep their habits."""
    rows = []
    for _ in range(n):
        rate = min(0.9, rng.betavariate(1, 5) * scale)
        now = 1 + int(rng.expovariate(0.1))
        past = now + rng.randint(0, 4)
        clicks = sum(rng.random() < rate for _ in range(now))
        before = sum(rng.random() < rate / scale for _ in range(past))
        rows.append([clicks, now, before, past])
    return rows


def rows(rng):
    cases = []
    for n_a, n_b, scale in [(40, 40, 1.0), (120, 90, 1.4), (60, 200, 0.8)]:
        a, b = users(rng, n_a, 1.0), users(rng, n_b, scale)
        column = lambda arm, i: [row[i] for row in arm]
        cases.append(
            {
                "a": a,
                "b": b,
                "ratio": answers(ratio(column(a, 0), column(a, 1)), ratio(column(b, 0), column(b, 1))),
                "mean": answers(mean(column(a, 0)), mean(column(b, 0))),
                "cuped": answers(adjusted(column(a, 0), column(a, 2)), adjusted(column(b, 0), column(b, 2))),
            }
        )
    return cases


def sample_ratios():
    cases = [([44000, 45000], [1, 1]), ([5000, 5100], [0.5, 0.5]), ([9000, 1100], [0.9, 0.1])]
    cases += [([300, 310, 350], [1, 1, 1]), ([1000, 2100, 990, 4000], [1, 2, 1, 4])]
    return [{"users": users, "weights": weights, "p": float(check_srm(users, weights))} for users, weights in cases]


def upworthy(root):
    """The first two rows of every 60th test and picture that has two, by their 0-based row numbers."""
    groups = defaultdict(list)
    with open(f"{root}/upworthy/upworthy.csv", newline="", encoding="utf-8") as file:
        for i, row in enumerate(csv.DictReader(file)):
            key = (row["clickability_test_id"], row["eyecatcher_id"])
            groups[key].append((i, int(row["impressions"]), int(row["clicks"])))
    pairs = [rows[:2] for rows in groups.values() if len(rows) >= 2][::60]
    cases = []
    for (i, n_a, k_a), (j, n_b, k_b) in pairs:
        want = answers(proportion(n_a, k_a), proportion(n_b, k_b))
        if want:
            cases.append({"rows": [i, j], "want": want})
    return cases


def open_bandit(root):
    """Clicks per impression over users, a user being all rows with the same four user features."""
    arms = []
    for name in ["random_men", "bts_men"]:
        clicks, shown = defaultdict(int), defaultdict(int)
        with open(f"{root}/open-bandit-men/{name}.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                user = tuple(row[f"user_feature_{i}"] for i in range(4))
                clicks[user] += int(row["click"])
                shown[user] += 1
        users = sorted(shown)
        arms.append(ratio([clicks[u] for u in users], [shown[u] for u in users]))
    return {"n_users": [arms[0].n, arms[1].n], "want": answers(*arms)}


def main():
    rng = random.Random(5)
    root = sys.argv[1]
    found = {
        "gbstats": "0.8.0",
        "prior_std_dev": PRIOR_STD_DEV,
        "counts": counts(rng),
        "rows": rows(rng),
        "sample_ratios": sample_ratios(),
        "upworthy": upworthy(root),
        "open_bandit": open_bandit(root),
    }
    json.dump(found, sys.stdout, separators=(",", ":"))
    print()


main()
