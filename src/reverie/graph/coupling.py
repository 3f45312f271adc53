"""The algebra of axes: which positions of which tensors can only be removed together.

Every axis of every tensor is an expression over *atoms*: a sum (concatenation) of products (row-major reshapes) of
atoms. An atom is an ordered set of units that live or die one by one. Declaring two axes equal unifies their
expressions, and splits atoms where boundaries fall within them: coupling `c` (96) with `a` (64) next to `b` (32) makes
`c` mean `a + b`; coupling `c` (192) with heads (3) times width (64) makes `c` mean their product. What cannot be
expressed so is frozen with a reason, never guessed. Segments, not indices: the cost grows with operations, not units.

Sources: first-order unification, Robinson 1965, doi:10.1145/321250.321253.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["ONE", "Axis", "Coupling", "Place"]

Term: TypeAlias = "tuple[int | Axis, ...]"
Axis: TypeAlias = tuple[Term, ...]

ONE: Axis = ((),)
"""The axis of size 1: the empty product."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the units of an atom lie along an axis.

    Unit u covers the rows `offset + sum_k i_k * stride_k + u * block + b`, for 0 <= i_k < count_k and 0 <= b < block.

    Attributes:
        atom: Which atom.
        offset: Row of the first unit.
        block: Adjacent rows per unit.
        outer: (count, stride) of each repetition, outermost first.
    """

    atom: int
    offset: int
    block: int
    outer: tuple[tuple[int, int], ...]


class Coupling:
    """Atoms, what they were found to mean, and which are frozen.

    Example:
        >>> axes = Coupling()
        >>> a, b, c = axes.atom(2), axes.atom(3), axes.atom(5)
        >>> axes.couple(c, axes.concat(a, b), "cat")
        >>> [(place.atom, place.offset) for place in axes.places(c)]
        [(0, 0), (1, 2)]
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._meanings: dict[int, Axis] = {}
        self._reasons: dict[int, str] = {}
        # Of today's atoms: forgotten whenever one is found to mean others.
        self._resolved: dict[Axis, Axis] = {}

    def atom(self, size: int, *, frozen: str | None = None) -> Axis:
        """An axis of one new atom; an axis of size 1 has none."""
        if size <= 1:
            return ONE if size == 1 else ()
        return self._new(size, frozen)

    def name(self, axis: Axis) -> Axis:
        """Another way to write an axis, which tells where it comes from; `resolve` writes it plainly again."""
        if axis in (ONE, ()):
            return axis
        named = self._new(self.size(axis))
        # Nobody has seen this atom before, so nothing that was resolved changes.
        self._meanings[len(self._sizes) - 1] = axis
        return named

    def concat(self, *axes: Axis) -> Axis:
        """The axes one after the other."""
        return self.resolve(tuple(term for axis in axes for term in axis))

    def product(self, *axes: Axis) -> Axis:
        """The axes nested, the first outermost: what a row-major reshape merges them into."""
        return self.resolve((tuple(axes),))

    def size(self, axis: Axis, kept: Mapping[int, int] | None = None) -> int:
        """Rows of an axis; where `kept` gives an atom's number of kept units, rows that would be left."""
        if not kept:
            if len(axis) == 1 and len(axis[0]) == 1 and isinstance(axis[0][0], int):
                return self._sizes[axis[0][0]]
            return self._whole(axis)

        def of(factor: int | Axis) -> int:
            return kept.get(factor, self._sizes[factor]) if isinstance(factor, int) else total(factor)

        def total(part: Axis) -> int:
            rows = 0
            for term in part:
                product = 1
                for factor in term:
                    product *= of(factor)
                rows += product
            return rows

        return total(self.resolve(axis))

    def _whole(self, axis: Axis) -> int:
        sizes, rows = self._sizes, 0
        for term in axis:
            product = 1
            for factor in term:
                product *= sizes[factor] if isinstance(factor, int) else self._whole(factor)
            rows += product
        return rows

    def resolve(self, axis: Axis) -> Axis:
        """The axis in terms of today's atoms.

        A sum never stands first in a product: (a + b) x c is written a x c + b x c. The reverse does not hold, since
        c x (a + b) interleaves.
        """
        known = self._resolved.get(axis)
        if known is None:
            terms: list[Term] = []
            for term in axis:
                terms.extend(self._resolve_term(term))
            known = self._resolved[axis] = tuple(terms)
        return known

    def atoms(self, axis: Axis) -> list[int]:
        """The atoms in an axis, in order, each once."""
        return list(dict.fromkeys(self._walk(self.resolve(axis))))

    def reason(self, atom: int) -> str | None:
        """Why an atom is frozen, or None where it is free."""
        return self._reasons.get(atom)

    def freeze(self, axis: Axis, reason: str) -> None:
        """Freeze every atom of an axis; the first reason stays."""
        for atom in self._walk(self.resolve(axis)):
            self._reasons.setdefault(atom, reason)

    def free(self, axis: Axis) -> list[int]:
        """The atoms in an axis that are not frozen."""
        return [atom for atom in self.atoms(axis) if atom not in self._reasons]

    def progress(self) -> tuple[int, int]:
        """How many atoms were found to mean others, and how many are frozen."""
        return len(self._meanings), len(self._reasons)

    def free_part(self, axis: Axis) -> Axis:
        """A product without its frozen factors, such as the channels in batch x channels; a sum has no such part."""
        resolved = self.resolve(axis)
        if len(resolved) != 1:
            return ONE
        return (tuple(factor for factor in resolved[0] if self.free(((factor,),))),)

    def couple(self, left: Axis, right: Axis, where: str) -> None:
        """Declare two axes equal, position by position.

        Args:
            left: An axis.
            right: Another of the same size.
            where: Named in the reason should the two not line up, in which case both are frozen.
        """
        work = [(left, right)]
        while work:
            first, second = work.pop()
            first, second = self.resolve(first), self.resolve(second)
            if first == second or not (self.free(first) or self.free(second)):
                continue
            further = self._step(first, second)
            if further is None:
                for axis in (first, second):
                    self.freeze(axis, f"{where} combines parts whose borders do not line up")
            else:
                work.extend(further)

    def split(self, axis: Axis, at: int) -> tuple[Axis, Axis] | None:
        """The first `at` rows and the rest; atoms are split where the border falls within them.

        None where the border falls within the rows of one unit.
        """
        axis = self.resolve(axis)
        start = 0
        for index, term in enumerate(axis):
            rows = self.size((term,))
            if at < start + rows:
                if at == start:
                    return axis[:index], axis[index:]
                if not self._cut_leading(term, at - start):
                    return None
                return self.split(axis, at)
            start += rows
        return axis, ()

    def places(self, axis: Axis) -> list[Place]:
        """Where each atom lies along an axis; an atom may lie in several places."""
        return list(self._places(self.resolve(axis), 0, 1, ()))

    def _places(self, axis: Axis, offset: int, scale: int, outer: tuple[tuple[int, int], ...]) -> Iterator[Place]:
        for term in axis:
            stride, around = self.size((term,)) * scale, outer
            rows = stride
            for factor in term:
                count = self._sizes[factor] if isinstance(factor, int) else self.size(factor)
                stride //= count
                if isinstance(factor, int):
                    yield Place(factor, offset, stride, around)
                else:
                    yield from self._places(factor, offset, stride, around)
                around = (*around, (count, stride))
            offset += rows

    def _new(self, size: int, frozen: str | None = None) -> Axis:
        atom = len(self._sizes)
        self._sizes.append(size)
        if frozen is not None:
            self._reasons[atom] = frozen
        return ((atom,),)

    def _define(self, atom: int, meaning: Axis) -> None:
        """Let an atom mean an expression, which inherits that the atom was frozen."""
        reason = self._reasons.get(atom)
        if reason is not None:
            self.freeze(meaning, reason)
        self._meanings[atom] = meaning
        self._resolved.clear()

    def _walk(self, axis: Axis) -> Iterator[int]:
        for term in axis:
            for factor in term:
                if isinstance(factor, int):
                    yield factor
                else:
                    yield from self._walk(factor)

    def _resolve_term(self, term: Term) -> list[Term]:
        done: list[int | Axis] = []
        for position, factor in enumerate(term):
            meaning: Axis = ((factor,),)
            if not isinstance(factor, int):
                meaning = self.resolve(factor)
            elif factor in self._meanings:
                meaning = self._meanings[factor] = self.resolve(self._meanings[factor])
            if len(meaning) == 1:
                done.extend(meaning[0])
            elif not done:
                rest = term[position + 1 :]
                return [one for part in meaning for one in self._resolve_term((*part, *rest))]
            else:
                done.append(meaning)
        return [tuple(done)]

    def _step(self, first: Axis, second: Axis) -> list[tuple[Axis, Axis]] | None:
        """One step of unification: smaller equations, or None where there is no solution."""
        if self.size(first) != self.size(second):
            return None
        one, other = _single(first), _single(second)
        inside = (one is not None and one in self._walk(second)), (other is not None and other in self._walk(first))
        if any(inside):
            # Of equal size, so all else in it has size 1: the two are one already.
            return []
        if one is not None and (other is None or other < one):
            self._define(one, second)
            return []
        if other is not None:
            self._define(other, first)
            return []
        if len(first) == 1 and len(second) == 1:
            return self._step_product(first[0], second[0])
        border = min(self.size(first[:1]), self.size(second[:1]))
        parts = self.split(first, border), self.split(second, border)
        if parts[0] is None or parts[1] is None:
            return None
        return [(parts[0][0], parts[1][0]), (parts[0][1], parts[1][1])]

    def _step_product(self, first: Term, second: Term) -> list[tuple[Axis, Axis]] | None:
        if not first or not second:
            self.freeze((first,), "a single position")
            self.freeze((second,), "a single position")
            return []
        # Resolved terms begin with atoms.
        heads = [(term[0], self._sizes[term[0]]) for term in (first, second) if isinstance(term[0], int)]
        (left, left_size), (right, right_size) = heads
        if left_size == right_size:
            return [(((left,),), ((right,),)), ((first[1:],), (second[1:],))]
        large, large_size, small_size = (
            (left, left_size, right_size) if left_size > right_size else (right, right_size, left_size)
        )
        if large_size % small_size:
            return None
        self._define(large, self.product(self._new(small_size), self._new(large_size // small_size)))
        return [((first,), (second,))]

    def _cut_leading(self, term: Term, at: int) -> bool:
        """Cut the first factor of a product at a row; where the row falls within a unit of it, that unit apart.

        So 4 groups x 12 members meet 32 rows and 16: the first two groups, the members of the third, the last group;
        and then the members are 8 and 4.
        """
        head = term[0]
        if not isinstance(head, int):
            return False
        units, within = divmod(at, self.size((term,)) // self._sizes[head])
        apart = ONE if within else ()
        rest = self.atom(self._sizes[head] - units - len(apart))
        self._define(head, self.concat(self.atom(units), apart, rest))
        return True


def _single(axis: Axis) -> int | None:
    """The atom that an axis is, or None where it is composed."""
    if len(axis) == 1 and len(axis[0]) == 1 and isinstance(axis[0][0], int):
        return axis[0][0]
    return None
