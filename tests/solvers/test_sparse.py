"""Matrices of cone programs, held against scipy's."""

import numpy as np
from numpy.testing import assert_array_equal
from scipy import sparse

from implicit_bias.solvers.sparse import Triples, beside, stacked


def test_triples_are_scipys_matrices() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.where(rng.random((4, 3)) < 0.5, rng.normal(size=(4, 3)), 0.0) for _ in range(2))
    made = stacked([beside([Triples.of(a), -Triples.of(b), Triples.nothing(4, 2)]), Triples.diagonal(np.arange(8.0))])
    scipys = sparse.vstack([sparse.hstack([a, -b, sparse.csc_matrix((4, 2))]), sparse.diags(np.arange(8.0))]).tocsc()
    assert made.shape == scipys.shape == (12, 8)
    dense, compressed = made.to_scipy().toarray(), made.compressed()
    assert_array_equal(dense, scipys.toarray())
    arrays = (compressed.data, compressed.indices, compressed.indptr)
    again = sparse.csc_matrix(arrays, shape=compressed.shape)
    assert again.has_canonical_format
    assert_array_equal(again.toarray(), dense)
    # A zero that was written down stays, as in rows of the gaps of a feature that is zero.
    assert len(compressed.data) == np.count_nonzero(a) + np.count_nonzero(b) + 8
    z = rng.normal(size=12)
    np.testing.assert_allclose(made.pulled(z), dense.T @ z, rtol=1e-14)
    wide = Triples.of(a).embedded(np.array([4, 0, 2]), 5)
    assert_array_equal(wide.to_scipy().toarray()[:, [4, 0, 2]], a)
    assert not wide.to_scipy().toarray()[:, [1, 3]].any()
