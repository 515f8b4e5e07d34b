"""BLEU and clusters equal nltk's and scikit-learn's, pair by pair."""

import random
import time
import tracemalloc
import unicodedata
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.cluster import AgglomerativeClustering

from rzero_ray.method import repetition
from rzero_ray.method.bleu import BleuIndex
from rzero_ray.method.judging import LocalJudge
from rzero_ray.method.repetition import (
    _cluster_ids,
    _symmetric_distances,
    bleu_matrix,
    cluster_ids,
    cluster_shares,
    cluster_shares_official,
)
from rzero_ray.tasks.registry import MathTask
from rzero_ray.tasks.words import split_words

ODD_QUESTIONS = [
    "",
    "a",
    "b",
    "a a",
    "a a a a a a",
    "a b c",
    "a b c d",
    "a b c d e",
    "the cat sat on the mat",
    "the cat sat on the mat",
    "the the the the the the the",
    "mat the on sat cat the",
    "é ü 你好 ß 😀",
    "你好 ß é ü",
    " leading   and\ttrailing\n",
]
HAN = np.random.default_rng(0).integers(0x4E00, 0x5C00, (125, 8_000)).tolist()
"""The characters of 125 questions, a million in all."""
BATCH_TIME_LIMIT_S = 15.0  # 1.5 s on one idle core


def nltk_bleu(hypothesis: list[str], reference: list[str]) -> float:
    if not hypothesis:
        return 0.0  # nltk divides by zero words; it also calls this 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smoothing = SmoothingFunction().method1
        return float(sentence_bleu([reference], hypothesis, smoothing_function=smoothing))  # type: ignore[arg-type]


def random_questions(num_questions: int, num_words: int, seed: int = 0) -> list[str]:
    """Zipf-distributed words; every third question is a noisy copy of an earlier one."""
    rng = random.Random(seed)
    words = [f"w{index}" for index in range(3_000)]
    weights = [1 / (index + 1) for index in range(3_000)]
    questions: list[str] = []
    for index in range(num_questions):
        tokens = rng.choices(words, weights, k=num_words)
        if index % 3 == 2:
            tokens = rng.choice(questions[-50:]).split()
            for _ in range(rng.randrange(num_words // 2)):
                tokens[rng.randrange(len(tokens))] = rng.choice(words)
        questions.append(" ".join(tokens))
    return questions


@pytest.mark.parametrize("questions", [ODD_QUESTIONS, random_questions(40, 20)])
def test_bleu_equals_nltk(questions: list[str]) -> None:
    expected = [[nltk_bleu(h.split(), r.split()) for r in questions] for h in questions]
    np.testing.assert_allclose(bleu_matrix(questions), expected, rtol=0, atol=1e-9)


def test_bleu_by_hand() -> None:
    bleu = bleu_matrix(["a b c d", "a b c d e", "a b"])
    # Hypothesis "a b c d" in reference "a b c d e": all precisions 1, brevity exp(1 - 5/4).
    assert bleu[0, 1] == pytest.approx(np.exp(-0.25), abs=1e-12)
    # The other direction: precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty.
    assert bleu[1, 0] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, abs=1e-12)
    # Two equal words against themselves: 1, 1, and 0.1 for the orders that do not exist.
    assert bleu[2, 2] == pytest.approx(0.01**0.25, abs=1e-12)


def test_empty_batches() -> None:
    assert bleu_matrix([]).shape == (0, 0)
    assert bleu_matrix([""]).tolist() == [[0.0]]
    assert cluster_shares([], 0.5) == []
    assert cluster_shares(["one"], 0.5) == [1.0]
    assert cluster_shares(["", " ", "a b c d"], 0.5) == [1 / 3] * 3


def test_shares_by_hand() -> None:
    questions = ["a b c d e", "a b c d e", "a b c d f", "v w x y z", ""]
    assert cluster_shares(questions, 0.5) == [0.6, 0.6, 0.6, 0.2, 0.2]
    assert cluster_shares(questions, 0.0) == [0.2] * 5
    assert cluster_shares(questions, 1e-6) == [0.4, 0.4, 0.2, 0.2, 0.2]
    # A threshold above every distance joins all, but a question without words stays alone.
    assert cluster_shares(questions, 2.0) == [0.8] * 4 + [0.2]


def test_cluster_ids_by_hand() -> None:
    questions = ["a b c d e", "v w x y z", "a b c d e", "", "a b c d f", ""]
    ids = cluster_ids(questions, 0.5)
    assert ids[0] == ids[2] == ids[4]
    # Questions without words are alone, also beside each other.
    assert len({ids[0], ids[1], ids[3], ids[5]}) == 4
    assert cluster_ids([], 0.5) == []
    assert len(set(cluster_ids(["", "a"], 0.5))) == 2


def test_short_equal_questions_are_one_cluster() -> None:
    assert cluster_shares(["1+1", "1+1", "2*3"], 0.5) == [2 / 3, 2 / 3, 1 / 3]
    assert cluster_shares_official(["1+1", "1+1", "2*3"], 0.5) == [1 / 3] * 3


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_bad_threshold_is_an_error(threshold: float) -> None:
    with pytest.raises(ValueError, match="distance_threshold"):
        cluster_shares(["a"], threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_clusters_equal_scikit_learn(threshold: float) -> None:
    questions = random_questions(60, 20, seed=1)
    count = len(questions)
    tokens = [question.split() for question in questions]
    one_way = np.zeros((count, count))
    two_way = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            forward, backward = nltk_bleu(tokens[i], tokens[j]), nltk_bleu(tokens[j], tokens[i])
            one_way[i, j] = one_way[j, i] = 1 - forward
            two_way[i, j] = two_way[j, i] = 1 - (forward + backward) / 2
    for distances, shares in (
        (one_way, cluster_shares_official(questions, threshold)),
        (two_way, cluster_shares(questions, threshold, str.split)),
    ):
        clustering = AgglomerativeClustering(
            n_clusters=None, distance_threshold=threshold, metric="precomputed", linkage="average"
        )
        labels = clustering.fit_predict(distances).tolist()
        sizes = Counter(labels)
        assert 1 < len(sizes) < count
        assert shares == pytest.approx([sizes[label] / count for label in labels], abs=1e-12)


def test_shares_do_not_depend_on_order() -> None:
    questions = random_questions(60, 15, seed=2)
    order = random.Random(0).sample(range(60), 60)
    shares = cluster_shares(questions, 0.5)
    assert cluster_shares([questions[i] for i in order], 0.5) == [shares[i] for i in order]


def test_words_of_formulas() -> None:
    assert split_words("12+x=30") == ["12", "+", "x", "=", "30"]
    assert split_words("3.14 * (a_b)") == ["3.14", "*", "(", "a", "_", "b", ")"]
    assert split_words("求 x!") == ["求", "x", "!"]
    assert split_words(" \n") == []
    assert cluster_shares(["1+2*3=?", "1+2*3=?", "9-8/7<6"], 0.5, split_words)[0] == 2 / 3


def test_paper_size_batch_is_fast() -> None:
    questions = random_questions(2_048, 60)
    start = time.perf_counter()
    shares = cluster_shares(questions, 0.5)
    assert time.perf_counter() - start < BATCH_TIME_LIMIT_S
    assert len(shares) == 2_048
    assert max(shares) > 1 / 2_048


def untied_distances(index: BleuIndex, rows: slice, columns: slice, dtype) -> np.ndarray:
    """Return the symmetric distances, a millionth apart where they would be equal: which of equal
    pairs merges first is left to the algorithm, and would depend on the rest of the batch."""
    a, b = index.text_N[rows][:, None], index.text_N[columns][None, :]
    noise = np.where(a == b, 0.0, 1e-6 * (1 + np.sin(0.731 * a * b + 1.37 * (a + b))))
    return _symmetric_distances(index, rows, columns, dtype) + noise


def dense_ids(questions: list[str], threshold: float, measure) -> list[int]:
    """Return the clusters of all distances at once."""
    every = slice(0, len(questions))
    distances = measure(BleuIndex.of(map(split_words, questions)), every, every, np.float64)
    tree = linkage(squareform(distances, checks=False), method="average")
    return fcluster(tree, np.nextafter(threshold, -np.inf), "distance").tolist()


def partition(ids: list[int]) -> list[int]:
    """Return the numbers of clusters in the order of their first members."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(cluster, len(numbers)) for cluster in ids]


SOME_WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


def collapsed_questions(count: int) -> list[str]:
    """Return questions of one template with much or little of their own: chains of near pairs."""
    rng = random.Random(0)
    return [
        f"Tom has {rng.randrange(99)} apples and Ann gives him {rng.randrange(99)} more, "
        + " ".join(rng.choices(SOME_WORDS, k=rng.randrange(30)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 2.0])
@pytest.mark.parametrize("make", [lambda n: random_questions(n, 20), collapsed_questions])
def test_clusters_of_the_graph_are_those_of_all_pairs(make, threshold, monkeypatch) -> None:
    monkeypatch.setattr(repetition, "_BLOCK_ENTRIES", 37 * 400)  # blocks that cut components
    questions = make(400)
    ids = _cluster_ids(questions, threshold, split_words, untied_distances).tolist()
    assert partition(ids) == partition(dense_ids(questions, threshold, untied_distances))
    assert threshold == 2.0 or 1 < len(set(ids)) < 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "measure"),
    [
        (lambda n: random_questions(n, 60), _symmetric_distances),
        (collapsed_questions, untied_distances),
    ],
    ids=["different", "collapsed"],
)
def test_clusters_of_4096_questions_are_those_of_all_pairs(make, measure) -> None:
    questions = make(4_096)
    ids = _cluster_ids(questions, 0.5, split_words, measure).tolist()
    assert partition(ids) == partition(dense_ids(questions, 0.5, measure))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("questions", "limit_mib"),
    [
        (random_questions(4_096, 20), 128),  # all pairs take 570
        (["".join(map(chr, row)) for row in HAN], 128),
    ],
    ids=["many", "long"],
)
def test_memory_grows_with_words_and_near_pairs(questions: list[str], limit_mib: int) -> None:
    tracemalloc.start()
    try:
        cluster_ids(questions, 0.5)
        assert tracemalloc.get_traced_memory()[1] < limit_mib << 20
    finally:
        tracemalloc.stop()


TEMPLATES = {
    "English": "Tom has {} apples and Ann gives him {} more apples, how many does Tom have now?",
    "Korean": "톰은 사과 {}개를 가지고 있고 앤이 {}개를 더 주었습니다. 톰은 사과가 몇 개입니까?",
    "Hindi": "टॉम के पास {} सेब हैं और ऐन उसे {} सेब और देती है, अब टॉम के पास कितने सेब हैं?",
    "Arabic": "لدى توم {} تفاحات وأعطته آن {} تفاحات أخرى، كم تفاحة لدى توم الآن؟",
    "Chinese": "小明有{}个苹果，小红又给了他{}个苹果，小明现在一共有多少个苹果？",
    "Japanese": "太郎はりんごを{}個持っています。花子が{}個くれました。今いくつありますか。",
    "Thai": "ทอมมีแอปเปิ้ล{}ผล แอนให้เขาอีก{}ผล ตอนนี้ทอมมีแอปเปิ้ลกี่ผล",
    "Lao": "ທອມມີໝາກແອັບເປີ້ນ{}ໜ່ວຍ ແອນໃຫ້ລາວອີກ{}ໜ່ວຍ ດຽວນີ້ທອມມີຈັກໜ່ວຍ",
    "Khmer": "ថមមានផ្លែប៉ោម{}ផ្លែ អាន់ឱ្យគាត់{}ផ្លែទៀត ឥឡូវថមមានប៉ុន្មានផ្លែ",
    "Burmese": "တွမ်တွင်ပန်းသီး{}လုံးရှိသည်။ အန်ကသူ့ကိုနောက်ထပ်{}လုံးပေးသည်။ ယခုဘယ်နှစ်လုံးရှိသနည်း။",
    "a formula": "Solve $x^2+{}x+{}=0$",
    "a formula alone": "$\\frac{{x}}{{{}}}+{}=7$",
}
# The same English in the full-width letters of East Asian keyboards.
TEMPLATES["full-width"] = "".join(
    chr(ord(char) + 0xFEE0) if char.isascii() and char.isalpha() else char
    for char in TEMPLATES["English"]
)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_one_template_with_other_numbers_is_one_cluster_in_every_script(template: str) -> None:
    questions = [template.format(3 + k, 5 + 2 * k) for k in range(20)]
    assert cluster_shares(questions, 0.5) == [1.0] * 20
    task = MathTask()
    assert cluster_shares(questions, 0.5, task.words) == [1.0] * 20
    assert len(set(cluster_ids(questions, 0.5))) == 1


def test_different_questions_are_different_clusters_in_scripts_without_spaces() -> None:
    questions = [
        "小明有3个苹果，小红又给了他5个苹果，小明现在一共有多少个苹果？",
        "一个三角形的三边分别是三、四、五，求它的面积。",
        "解方程：二次函数的顶点在原点，求系数之和。",
    ]
    assert cluster_shares(questions, 0.5) == [1 / 3] * 3


def test_the_official_rule_keeps_white_space() -> None:
    questions = [TEMPLATES["Chinese"].format(k, k + 2) for k in range(4)]
    assert cluster_shares_official(questions, 0.5) == [1 / 4] * 4
    judge = LocalJudge(MathTask())
    assert judge.repetition_shares(questions, 0.5, "official") == [1 / 4] * 4
    assert judge.repetition_shares(questions, 0.5, "symmetric") == [1.0] * 4


def test_words_of_each_kind() -> None:
    assert split_words("2+2?") == split_words("2 + 2 ?") == ["2", "+", "2", "?"]
    assert split_words("Don’t stop") == ["Don’t", "stop"]
    assert split_words("किताब में") == ["किताब", "में"]  # vowel signs stay with their letters
    assert split_words("多少个？") == ["多", "少", "个", "?"]
    assert split_words(r"\frac{1}{2}") == [r"\frac", "{", "1", "}", "{", "2", "}"]
    assert split_words("zero\u200bwidth \u200e") == ["zerowidth"]
    assert split_words("می\u200cروم") == ["میروم"]  # a joiner that Persian words hold
    assert split_words("½ ² ﬁ") == ["1", "⁄", "2", "2", "fi"]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_no_text_but_white_space_is_lost(text: str) -> None:
    normal = unicodedata.normalize("NFKC", text)
    shown = "".join(char for char in normal if unicodedata.category(char) != "Cf")
    assert "".join(split_words(text)) == "".join(shown.split())
