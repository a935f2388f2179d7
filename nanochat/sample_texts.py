"""Short texts of several kinds, on which tokenizers are compared; written for this purpose."""

from __future__ import annotations

NEWS = """\
HARBOUR TOWN, March 14 - The city council voted 9 to 4 on Tuesday night to reopen the old ferry
line between the northern docks and the market square, ending a dispute that had lasted for almost
eleven years. The first boats are expected to leave in September, and a single ticket will cost
$2.75.

"People have been asking for this since the bridge was closed to lorries," said Maria Lindqvist,
who chairs the transport committee. "It's slower than the tunnel, but nobody has ever missed a
train because of the view."

Opponents pointed to the cost. A report published last week by the city's own auditors puts it at
$18.6 million, about a third more than was promised in 2019, and warns that fuel prices could add
another 5 percent. The mayor, who abstained, said the budget would be discussed again before the
summer recess. Shares in the company that built the boats rose 3.2 percent in early trading on
Wednesday.
"""

KOREAN = """\
지난 주말 우리 가족은 바닷가에 있는 작은 마을로 여행을 다녀왔습니다. 아침 일찍 기차를 타고 세 시간쯤
달리자 창밖으로 푸른 바다가 보이기 시작했습니다. 역에 내리니 바람이 조금 차가웠지만 하늘은 맑았습니다.

점심에는 시장에서 따뜻한 국수를 먹었습니다. 할머니 한 분이 직접 만든 김치를 더 주시면서 어디에서
왔느냐고 물으셨습니다. 서울에서 왔다고 하니, 그렇게 먼 곳에서 와 주어서 고맙다고 웃으셨습니다.
저녁에는 등대까지 걸어가서 해가 지는 모습을 보았습니다. 동생은 사진을 2백 장이나 찍었고, 아버지는
말없이 오랫동안 바다를 바라보셨습니다.

돌아오는 길에 어머니가 말씀하셨습니다. “다음에는 하루 더 있다 오자.” 우리는 모두 그러자고
대답했습니다.
"""

CODE = '''\
from __future__ import annotations

import heapq
from collections import defaultdict


class Graph:
    """A directed graph with weights that are not negative."""

    def __init__(self) -> None:
        self.edges: dict[str, list[tuple[str, float]]] = defaultdict(list)

    def connect(self, start: str, end: str, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"weight {weight} is negative")
        self.edges[start].append((end, weight))

    def distance(self, start: str, goal: str) -> float | None:
        """The length of the shortest path, or None if there is no path."""
        queue, seen = [(0.0, start)], set()
        while queue:
            so_far, node = heapq.heappop(queue)
            if node == goal:
                return so_far
            if node in seen:
                continue
            seen.add(node)
            for neighbour, weight in self.edges[node]:
                heapq.heappush(queue, (so_far + weight, neighbour))
        return None


if __name__ == "__main__":
    graph = Graph()
    for i in range(100):
        graph.connect(str(i), str((i * 7 + 3) % 100), weight=i % 5 + 0.5)
    print(graph.distance("0", "42"))
'''

MATH = r"""
\begin{theorem}
For every integer $n \ge 1$ we have $\sum_{k=1}^{n} k^3 = \left( \frac{n(n+1)}{2} \right)^2$.
\end{theorem}
\begin{proof}
By induction. For $n = 1$ both sides are $1$. Suppose the claim holds for $n$. Then
\begin{align*}
  \sum_{k=1}^{n+1} k^3 &= \frac{n^2 (n+1)^2}{4} + (n+1)^3 \\
                       &= \frac{(n+1)^2 \left( n^2 + 4n + 4 \right)}{4}
                        = \left( \frac{(n+1)(n+2)}{2} \right)^2 ,
\end{align*}
which is the claim for $n + 1$. \qed
\end{proof}
For example, $1 + 8 + 27 + 64 + 125 = 225 = 15^2$, and $\lim_{n \to \infty} n^{-4} \sum_{k \le n} k^3 = 1/4
= \int_0^1 x^3 \, \mathrm{d}x$. Let $f \colon \mathbb{R} \to \mathbb{R}$ be given by $f(x) = e^{-x^2/2}$; then
$\| f \|_2^2 = \sqrt{\pi} \approx 1.7724538509$, and $f'(x) = -x f(x)$ for all $x \in \mathbb{R}$.
"""

SCIENCE = """\
Lichens grow slowly, often less than a millimetre a year, because the fungus depends on what its
partner, a green alga or a cyanobacterium, can produce while the thallus is wet. We measured net
photosynthesis in 48 thalli of three species at five temperatures (5 to 25 degrees Celsius) and
four levels of water content. Carbon dioxide uptake reached its maximum at 60 to 75 percent of
saturation; above that, diffusion through the swollen cortex became the limiting factor.
Chlorophyll fluorescence (Fv/Fm = 0.71 +/- 0.03, n = 48) recovered within 20 minutes after
rehydration, and no significant difference was found between sites (p = 0.34, two-sided t-test).
These results suggest that the length of the wet period, rather than the amount of rain,
determines how much carbon is gained, and that warmer winters with frequent short showers may be
unfavourable to species of exposed rocks.
"""

SAMPLES = {"news": NEWS, "korean": KOREAN, "code": CODE, "math": MATH, "science": SCIENCE}
