"""Training that keeps each weight in its form: zeros stay zero, integers on their grid, factors stay factors.

`train` is the one loop; what it lessens is an Objective, whose weights it changes are a Student's.
"""

from .loop import Trained, train
from .samples import TrainingSamples
from .settings import TrainingSettings
from .student import Labels, Objective, Student
