import math
import subprocess
import sys

import pytest
import torch
from scipy import integrate, stats

from isthmus.errors import InputError
from isthmus.metrics import (
    METRICS,
    c2st_auc,
    energy_distance,
    fid_like,
    inception_score,
    precision_recall,
    reconstruction_mse,
    sliced_wasserstein,
)

SAMPLES = {name: metric.function for name, metric in METRICS.items() if metric.takes == "samples"}
DISTANCES = [fid_like, energy_distance, sliced_wasserstein]


def normal(n, columns=3, seed=0):
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(n, columns=3, seed=0):
    """Rows whose mean is exactly 0 and whose covariance over n is exactly the identity."""
    centred = normal(n, columns, seed)
    centred = centred - centred.mean(0)
    return torch.linalg.qr(centred).Q * n**0.5


def rotation(columns=3):
    return torch.linalg.qr(normal(columns, columns, 9)).Q


# -- every metric on samples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_is_a_reproducible_python_float_and_leaves_its_input_alone(name):
    x, y = normal(60).float(), normal(50, seed=1).float()
    copies = x.clone(), y.clone()
    state = torch.random.get_rng_state()
    value = SAMPLES[name](x, y)
    assert type(value) is float
    assert math.isfinite(value)
    assert SAMPLES[name](x, y) == value
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(1, 2), torch.zeros(1, 2)),
        (torch.full((20, 2), torch.nan), torch.zeros(20, 2)),
        (torch.zeros(20, 2), torch.full((20, 2), torch.inf)),
        (torch.zeros(20, 0), torch.zeros(20, 0)),
    ],
)
def test_refuses_what_it_cannot_compare(name, x, y):
    with pytest.raises(InputError, match=r"expected .*; got .*; "):
        METRICS[name].function(x, y)


@pytest.mark.usefixtures("unchecked")
def test_refuses_unequal_columns_and_unpaired_rows():
    for function in SAMPLES.values():
        with pytest.raises(InputError, match="equal numbers of columns; got 2 and 3"):
            function(torch.zeros(20, 2), torch.zeros(20, 3))
    with pytest.raises(InputError, match="got 21 for 20"):
        reconstruction_mse(torch.zeros(20, 2), torch.zeros(21, 2))


def test_table_names_its_entries():
    assert all(name == metric.name == metric.function.__name__ for name, metric in METRICS.items())


# -- what the three distances share ---------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_is_zero_for_the_same_rows_in_any_order_and_symmetric_otherwise(distance):
    x, y = normal(200), 0.5 * normal(300, seed=1) + 1
    assert distance(x, x.flip(0)) == pytest.approx(0, abs=1e-7)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9)
    assert distance(x, y) > 0.1


@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_does_not_see_repetition(distance):
    """Every row twice is the same empirical law, so n != m must be exact."""
    x, y = normal(40), normal(30, seed=1) + 1
    assert distance(x.repeat(2, 1), y.repeat(3, 1)) == pytest.approx(distance(x, y), rel=1e-9)


@pytest.mark.parametrize(("distance", "power"), [(fid_like, 2), (energy_distance, 1), (sliced_wasserstein, 1)])
def test_distance_has_the_stated_unit_and_ignores_shifts(distance, power):
    x, y = normal(40), normal(30, seed=1) + 1
    assert distance(3 * x + 1e3, 3 * y + 1e3) == pytest.approx(3**power * distance(x, y), rel=1e-7)


@pytest.mark.parametrize("distance", [fid_like, energy_distance])
def test_distance_is_invariant_under_rotation(distance):
    x, y = normal(40), 2 * normal(30, seed=1) + 1
    assert distance(x @ rotation(), y @ rotation()) == pytest.approx(distance(x, y), rel=1e-9)


# -- each against its closed form -----------------------------------------------------------------------------------


def test_fid_of_commuting_covariances():
    x, y = whitened(50), whitened(80, seed=1)
    shift, scale = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.25, 1.0, 4.0])
    expected = shift.square().sum() + (scale - 1).square().sum()
    assert fid_like(x * scale + shift, y) == pytest.approx(float(expected), rel=1e-12)


def test_fid_of_two_general_covariances_is_the_papers_formula():
    a, b = normal(3, 3, 5), normal(3, 3, 6)
    c1, c2 = a.T @ a, b.T @ b
    eigenvalues = torch.linalg.eigvals(c1 @ c2).real.clamp(min=0)
    expected = c1.trace() + c2.trace() - 2 * eigenvalues.sqrt().sum()
    assert fid_like(whitened(50) @ a, whitened(80, seed=1) @ b) == pytest.approx(float(expected), rel=1e-9)


def test_fid_survives_singular_covariances():
    x = whitened(50)
    flat = x * torch.tensor([1.0, 1.0, 0.0])
    assert fid_like(flat, x) == pytest.approx(1, rel=1e-9)  # the discarded eigenvalue
    assert fid_like(flat, flat.flip(0)) == pytest.approx(0, abs=1e-12)
    line_a, line_b = x[:, :1] * torch.tensor([1.0, 0.0]), x[:, :1] * torch.tensor([0.0, 1.0])
    assert fid_like(line_a, line_b) == pytest.approx(2, rel=1e-9)
    assert fid_like(normal(4, 10), normal(5, 10, seed=1)) > 0  # fewer rows than columns


def test_energy_distance_in_one_dimension_is_the_cramer_distance():
    """2 * integral (F - G)^2, by quadrature, of two normal laws; samples at the mid-quantiles."""
    first, second = stats.norm(0, 1), stats.norm(0.7, 1.5)
    expected = 2 * integrate.quad(lambda t: (first.cdf(t) - second.cdf(t)) ** 2, -15, 15)[0]
    levels = (torch.arange(4000) + 0.5) / 4000
    x, y = (torch.from_numpy(law.ppf(levels.double().numpy()))[:, None] for law in (first, second))
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-3)


def test_energy_distance_by_loops_and_its_cap():
    x, y = normal(12), normal(9, seed=1) + 1

    def mean(a, b):
        return sum(float((p - q).norm()) for p in a for q in b) / (len(a) * len(b))

    assert energy_distance(x, y) == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y), rel=1e-9)
    many, others = normal(3000), normal(3000, seed=1) + 1
    capped = energy_distance(many, others, max_rows=1000)
    assert capped == energy_distance(many, others, max_rows=1000)
    assert capped != energy_distance(many, others)
    assert capped == pytest.approx(energy_distance(many, others), rel=0.15)


def test_sliced_wasserstein_in_one_dimension_is_the_exact_transport_cost():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0], [5.0]])
    # quantile pieces (0, 1/3], (1/3, 1/2], (1/2, 2/3], (2/3, 1] pair 0-0, 0-2, 1-2, 1-5
    expected = (0 / 3 + 4 / 6 + 1 / 6 + 16 / 3) ** 0.5
    assert sliced_wasserstein(x, y, n_projections=3) == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_of_a_shift_and_of_a_scale():
    x = normal(100, 4)
    shift = torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert sliced_wasserstein(x + shift, x, n_projections=20_000) == pytest.approx(5 / 4**0.5, rel=0.02)
    wide = whitened(20_000, 4)
    assert sliced_wasserstein(3 * wide, wide) == pytest.approx(2, rel=1e-2)  # (3 - 1) in every direction
    assert sliced_wasserstein(x + shift, x, seed=1) != sliced_wasserstein(x + shift, x, seed=2)


def test_sliced_wasserstein_of_unequal_counts_tends_to_that_of_the_laws():
    assert sliced_wasserstein(normal(30_000), 2 * normal(20_000, seed=1)) == pytest.approx(1, rel=0.03)


def test_c2st_is_near_half_for_equal_laws_and_near_one_for_far_ones():
    x, y = normal(600, 8), normal(900, 8, seed=1)
    assert c2st_auc(x, y) == pytest.approx(0.5, abs=0.06)
    assert c2st_auc(x, y + 2) > 0.99


def test_c2st_matches_the_auc_of_the_likelihood_ratio():
    """For normal laws a distance delta apart, no test has an AUC above Phi(delta / sqrt 2)."""
    delta = 1.5
    best = stats.norm.cdf(delta / 2**0.5)
    value = c2st_auc(normal(1500, 1), normal(1500, 1, seed=1) + delta)
    assert best - 0.05 < value < best + 0.015


def test_c2st_sees_noise_in_directions_that_no_column_shows():
    thin = torch.tensor([1.0] * 10 + [0.05] * 10)
    turn = rotation(20)
    clean, noisy = normal(600, 20) * thin, normal(600, 20, seed=1) * thin + 0.07 * normal(600, 20, seed=2)
    assert c2st_auc(noisy @ turn, clean @ turn) > 0.8


def test_c2st_survives_constant_columns_and_few_rows():
    x = normal(10, 2) * torch.tensor([1.0, 0.0])
    assert 0 <= c2st_auc(x, x + 1) <= 1


def test_reconstruction_error_sums_over_columns():
    x = normal(100, 5)
    assert reconstruction_mse(x, x) == 0
    assert reconstruction_mse(x, x + 0.5) == pytest.approx(5 * 0.25, rel=1e-12)


def test_import_does_not_load_scikit_learn():
    code = "import sys, isthmus.metrics; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- images: precision and recall, inception score --------------------------------------------------------------------


def test_precision_and_recall_by_loops():
    x, y = normal(40), 0.7 * normal(30, seed=1) + 0.5

    def share(rows, others, k):
        radii = [sorted(float((p - q).norm()) for q in others)[k] for p in others]
        return sum(any(float((p - q).norm()) <= r for q, r in zip(others, radii, strict=True)) for p in rows) / len(
            rows
        )

    for k in (1, 3):
        assert precision_recall(x, y, k=k) == pytest.approx((share(x, y, k), share(y, x, k)))
        assert precision_recall(x, y, k=k) == precision_recall(y, x, k=k)[::-1]
        assert precision_recall(3 * x @ rotation() + 9, 3 * y @ rotation() + 9, k=k) == precision_recall(x, y, k=k)
    assert type(precision_recall(x, y).recall) is float


def test_precision_sees_quality_and_recall_variety():
    x, far = normal(200), normal(200, seed=1) + 100
    assert precision_recall(x, x.flip(0)) == (1, 1)
    assert precision_recall(far, x) == (0, 0)
    assert precision_recall(x, torch.cat([x, far])) == pytest.approx((1, 0.5))  # one of two modes is missing
    assert precision_recall(torch.cat([x, far]), x) == pytest.approx((0.5, 1))  # half of the samples are wrong
    precision, recall = precision_recall(0.1 * normal(500, seed=2), normal(500, seed=3))
    assert precision > 0.95 > 0.2 > recall


def test_precision_and_recall_in_blocks_and_thinned(monkeypatch):
    x, y = normal(300), normal(200, seed=1) + 0.5
    whole = precision_recall(x, y)
    monkeypatch.setattr("isthmus.metrics._ELEMENTS", 1000)
    assert precision_recall(x, y) == whole
    assert precision_recall(x, y, max_rows=50) == precision_recall(x, y, max_rows=50) != whole


@pytest.mark.usefixtures("unchecked")
def test_precision_and_recall_need_neighbours_and_columns():
    x = normal(10)
    for options in ({"samples": x[:3]}, {"reference": x[:3]}, {"reference": x[:, :2]}, {"k": 0}, {"samples": x / 0}):
        with pytest.raises(InputError, match=r"expected .*; got .*; "):
            precision_recall(**{"samples": x, "reference": x} | options)


def test_inception_score_in_closed_form():
    assert inception_score(torch.eye(10).repeat(20, 1)) == pytest.approx(10)
    assert inception_score(torch.softmax(normal(1, 5), 1).repeat(40, 1)) == pytest.approx(1)
    sure = 0.9  # two classes: log 2 less the entropy
    entropy = -sure * math.log(sure) - (1 - sure) * math.log(1 - sure)
    rows = torch.tensor([[sure, 1 - sure], [1 - sure, sure]])
    assert inception_score(rows.repeat(50, 1)) == pytest.approx(2 * math.exp(-entropy), rel=1e-6)


def test_inception_score_is_the_mean_over_parts_in_their_order():
    rows = torch.eye(4).repeat_interleave(5, 0)
    assert inception_score(rows, splits=1) == pytest.approx(4)
    assert inception_score(rows, splits=2) == pytest.approx(2)
    assert inception_score(rows, splits=4) == pytest.approx(1)
    third = math.exp(-math.log(1 / 3) / 3 - 2 * math.log(2 / 3) / 3)  # of one row of a class and two of another
    assert inception_score(rows[:10], splits=3) == pytest.approx((1 + third + 1) / 3)


@pytest.mark.parametrize(
    "rows",
    [torch.ones(20, 3), torch.full((20, 2), torch.nan), torch.tensor([[1.5, -0.5]]).repeat(20, 1), torch.eye(3)],
)
def test_inception_score_refuses_what_are_no_probabilities_or_too_few(rows):
    with pytest.raises(InputError, match=r"expected .*; got .*; "):
        inception_score(rows)
