import torch

from stage1_tokenizer.quantizers.kmeans import kmeans


def generator():
    return torch.Generator().manual_seed(0)


def test_centroids_are_the_means_of_well_separated_groups():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    features = (centres[:, None] + torch.randn(3, 100, 2)).flatten(0, 1)
    # a start inside one group can merge two others; the best of several starts finds all three
    runs = [kmeans(features, 3, generator=torch.Generator().manual_seed(s)) for s in range(5)]
    best = min(runs, key=lambda c: torch.cdist(features, c).min(1).values.sum())
    found = best[best.sum(1).argsort()]
    means = features.unflatten(0, (3, 100)).mean(1)
    torch.testing.assert_close(found.sort(0).values, means.sort(0).values)


def test_iterations_lower_the_distortion():
    torch.manual_seed(0)
    features = torch.randn(2000, 4)
    distortion = [
        torch.cdist(features, kmeans(features, 32, iterations=n, generator=generator())).min(1).values.square().mean()
        for n in (0, 1, 5, 20)
    ]
    assert distortion == sorted(distortion, reverse=True)
    assert distortion[-1] < 0.9 * distortion[0]


def test_cosine_groups_by_direction():
    features = torch.tensor([[1.0, 0.1], [10.0, -1.0], [0.1, 1.0], [-1.0, 10.0]])
    centroids = kmeans(features, 2, distance="cosine", generator=torch.Generator().manual_seed(1))
    expected = {(5.5, -0.45), (-0.45, 5.5)}
    assert {tuple(round(v, 4) for v in row) for row in centroids.tolist()} == expected


def test_fewer_features_than_centroids_give_distinct_centroids():
    features = torch.randn(5, 3)
    centroids = kmeans(features, 12, generator=generator())
    assert centroids.shape == (12, 3)
    assert len(centroids.unique(dim=0)) == 12
    assert torch.cdist(centroids, features).min(1).values.max() < 0.1


def test_same_generator_same_centroids():
    features = torch.randn(300, 3)
    assert torch.equal(kmeans(features, 8, generator=generator()), kmeans(features, 8, generator=generator()))
