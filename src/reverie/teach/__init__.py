"""Teach a network with or without data: dreams, lessons, and a table that says what they were worth."""

from reverie.teach.routes import adaptive_route, generator_route, pixel_route
from reverie.teach.students import start_student
from reverie.teach.teach import Line, Taught, teach

__all__ = ["Line", "Taught", "adaptive_route", "generator_route", "pixel_route", "start_student", "teach"]
