"""Data sets with task labels as routes in words: what `benchmarks.route_accuracy` picks among.

Descriptions were written from the names of the tasks, before any prompt was scored, and never changed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmrouter.routes import Route
from llmrouter.types import OTHER_ROUTE


@dataclass(frozen=True, slots=True)
class Scene:
    """Routes over one data set.

    Attributes
    ----------
    name : str
        Of the scene.
    data : str
        Folder of outcomes, or ``pocket``.
    descriptions : mapping of str to str
        Route -> what belongs on it.
    tasks : mapping of str to tuple of str
        Route -> tasks of the data set that are on it; every other task is on none.
    """

    name: str
    data: str
    descriptions: Mapping[str, str]
    tasks: Mapping[str, tuple[str, ...]]

    @property
    def routes(self) -> list[Route]:
        """The routes, without examples; who answers is of no interest here."""
        return [Route(name, description, models=("any",)) for name, description in self.descriptions.items()]

    def label(self, task: str) -> str:
        """Return the route of a task."""
        return next((route for route, tasks in self.tasks.items() if task in tasks), OTHER_ROUTE)


_POCKET = {
    "add": "Adding two numbers: a sum, plus",
    "subtract": "Subtracting numbers: a difference, minus, take away",
    "multiply": "Multiplying numbers: a product, times",
    "larger": "Which of two numbers is larger, bigger or greater",
    "smaller": "Which of two numbers is smaller or less",
    "maximum": "The largest number of a list, the maximum",
    "minimum": "The smallest number of a list, the minimum",
    "next_number": "Continuing a sequence of numbers: which number comes next",
    "sort_numbers": "Sorting numbers in ascending or descending order",
    "parity": "Whether a number is even or odd",
    "convert_units": "Converting units: lengths, weights, times",
    "count_items": "Counting the items of a list",
    "count_letters": "Counting how often a letter occurs in a word",
    "first_letter": "The first letter of a word",
    "last_letter": "The last letter of a word",
    "lower_case": "Writing text in lower case, in small letters",
    "upper_case": "Writing text in upper case, in capital letters",
    "title_case": "Capitalizing the first letter of every word, title case",
    "reverse": "Reversing a word, writing it backwards",
    "spell": "Spelling a word, letter by letter",
    "sort_letters": "Sorting the letters of a word alphabetically",
    "sort_words": "Sorting words in alphabetical order",
    "plural": "The plural form of a noun",
    "opposite": "The opposite of a word, an antonym",
    "capital": "The capital city of a country",
}

_SUBJECTS = {
    "law": "Law: statutes, courts, contracts, crimes, legal cases and international law",
    "medicine": "Medicine and health: patients, symptoms, diagnosis, drugs, anatomy, genetics, viruses, nutrition",
    "biology": "Biology: cells, genes, evolution, plants, animals and ecosystems",
    "psychology": "Psychology: behaviour, cognition, therapy, mental disorders and human development",
    "business": "Economics and business: markets, prices, inflation, accounting, management and marketing",
    "mathematics": "Mathematics: arithmetic word problems, algebra, geometry, calculus, probability and statistics",
    "physics": "Physics and engineering: motion, forces, electricity, light, energy and astronomy",
    "chemistry": "Chemistry: reactions, acids, bonds, molecules and elements",
    "computing": "Computer science: programs, algorithms, machine learning, networks and security",
    "history": "History: wars, empires, revolutions, historical documents and prehistoric people",
    "philosophy": "Philosophy and ethics: morals, right and wrong, arguments, logic, fallacies and religions",
    "politics": "Politics: government, elections, foreign policy and national security",
}
_SUBJECT_TASKS = {
    "law": ("professional_law", "international_law", "jurisprudence"),
    "medicine": (
        "professional_medicine",
        "clinical_knowledge",
        "college_medicine",
        "anatomy",
        "medical_genetics",
        "nutrition",
        "virology",
        "human_aging",
    ),
    "biology": ("college_biology", "high_school_biology"),
    "psychology": ("high_school_psychology", "professional_psychology"),
    "business": (
        "econometrics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "management",
        "marketing",
        "professional_accounting",
        "business_ethics",
    ),
    "mathematics": (
        "abstract_algebra",
        "college_mathematics",
        "elementary_mathematics",
        "high_school_mathematics",
        "high_school_statistics",
    ),
    "physics": (
        "astronomy",
        "college_physics",
        "conceptual_physics",
        "electrical_engineering",
        "high_school_physics",
    ),
    "chemistry": ("college_chemistry", "high_school_chemistry"),
    "computing": (
        "college_computer_science",
        "high_school_computer_science",
        "computer_security",
        "machine_learning",
    ),
    "history": (
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "prehistory",
    ),
    "philosophy": (
        "philosophy",
        "moral_disputes",
        "moral_scenarios",
        "formal_logic",
        "logical_fallacies",
        "world_religions",
    ),
    "politics": ("high_school_government_and_politics", "security_studies", "us_foreign_policy"),
}

_KINDS = {
    "code": "Writing program code: a function in Python that does what is described",
    "maths": "Mathematics: word problems, algebra, geometry, number theory, to be worked out step by step",
    "logic_puzzles": "Logic puzzles: who lives in which house, from a list of clues",
    "science": "Science questions: physics, chemistry, biology, the earth, experiments",
    "trivia": "Trivia: facts about people, places, films, music, sports and history",
    "everyday": "Everyday common sense: what people do, where things are, why somebody would do something",
    "sentences": "Writing a sentence or a short text that uses all of the given words",
}
_KIND_TASKS = {
    "code": ("mbpp", "human_eval"),
    "maths": ("math", "gsm8k", "agentverse-mgsm"),
    "logic_puzzles": ("agentverse-logicgrid",),
    "science": ("arc_challenge", "openbook_qa", "gpqa"),
    "trivia": ("trivia_qa", "natural_qa"),
    "everyday": ("commonsense_qa",),
    "sentences": ("commongen",),
}

SCENES = (
    Scene("skills", "pocket", _POCKET, {name: (name,) for name in _POCKET}),
    Scene(
        "subjects",
        "routellm_pair",
        _SUBJECTS,
        {
            route: (*(f"mmlu-{task}" for task in tasks), *(("gsm8k",) if route == "mathematics" else ()))
            for route, tasks in _SUBJECT_TASKS.items()
        },
    ),
    Scene("kinds", "llmrouter_nim9", _KINDS, _KIND_TASKS),
)
"""The scenes: 25 skills of the pocket tasks, 12 subjects of MMLU (with GSM8K), 7 kinds of requests."""
