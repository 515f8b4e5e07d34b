"""BLEU and clusters equal nltk's and scikit-learn's, pair by pair."""

import random
import time
import unicodedata
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sklearn.cluster import AgglomerativeClustering

from rzero_ray.method.judging import LocalJudge
from rzero_ray.method.repetition import (
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
