"""scikit-learn's own checks, without exceptions, and what they do not cover."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from isthmus.estimator import InjectiveFlow, InjectiveFlowDetector


@parametrize_with_checks([InjectiveFlow(max_steps=10), InjectiveFlowDetector(max_steps=10)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)
