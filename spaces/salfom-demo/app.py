"""The Space: the page of the package's demo."""

from salfom_hf.demo import build, launch

demo = build()

if __name__ == "__main__":
    launch(demo)
