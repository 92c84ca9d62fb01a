"""Tools: gradient checks, model summaries, profiles, graph drawings, learning-rate search, info."""

from minidl.tools.checking import gradcheck, gradgradcheck
from minidl.tools.counting import Summary, summary
from minidl.tools.drawing import plot_graph
from minidl.tools.environment import info
from minidl.tools.profiling import Profile, profile
from minidl.tools.rates import LRFind, lr_find
