"""Teach a network with or without data: dreams, lessons, and a table that says what they were worth."""

from reverie.teach.students import start_student
from reverie.teach.teach import Line, Taught, teach

__all__ = ["Line", "Taught", "start_student", "teach"]
