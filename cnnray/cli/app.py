"""The command groups, to which the other modules here add their commands."""

from cyclopts import App, Parameter

from cnnray import __version__

Flat = Parameter(name="*")

app = App(
    name="cnnray",
    version=__version__,
    help="Folders of images into trained, served vision models.",
    suppress_keyboard_interrupt=False,  # `main` says that the same command resumes
)
data = App(name="data", help="Look at, convert and split data sets.")
features = App(name="features", help="Frozen-backbone features, resumable and verified.")
train = App(name="train", help="Train models.")
evaluate = App(name="evaluate", help="Measure a checkpoint on labelled images.")
compare = App(name="compare", help="Measure several checkpoints on the same images.")
predict = App(name="predict", help="Predict a folder: Parquet, masks or COCO JSON.")
faces = App(name="faces", help="Find faces, enrol people in galleries, say who it is.")
visualize = App(name="visualize", help="What networks see, and why they answer as they do.")
serve = App(name="serve", help="The HTTP service.")
query = App(name="query", help="Ask a running service.")
for group in (data, features, train, evaluate, compare, predict, faces, visualize, serve, query):
    app.command(group)
