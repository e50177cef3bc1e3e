import torch

from twostage.metrics.neighbours import nearest_rows, share_too_near


def test_neighbours_do_not_depend_on_parts(generator):
    queries, rows = torch.randn(5, 3, generator=generator), torch.randn(20, 3, generator=generator)
    expected = torch.cdist(queries.double(), rows.double()).sort(1)
    for sizes in ([20], [1, 2, 17], [1] * 20):
        found = nearest_rows(queries, rows.split(sizes), 4)
        torch.testing.assert_close(found.distances, expected.values[:, :4])
        assert torch.equal(found.indices, expected.indices[:, :4])


def test_a_recited_image_is_found_at_no_distance(generator):
    rows = 1000 + torch.randn(50, 64, generator=generator)
    found = nearest_rows(rows[[7, 30]], rows.split(16), 2)
    assert found.indices[:, 0].tolist() == [7, 30]
    assert (found.distances[:, 0] < 1e-3).all()
    assert (found.distances[:, 1] > 1).all()


def test_fewer_rows_than_asked_for_are_all():
    assert nearest_rows(torch.zeros(2, 3), [torch.ones(3, 3)], 5).indices.shape == (2, 3)


def test_the_share_of_samples_nearer_than_unseen_images():
    unseen = torch.linspace(1, 2, 101)
    assert share_too_near(unseen, unseen) < 0.03
    assert share_too_near(torch.cat([unseen, torch.zeros(101)]), unseen) > 0.49
