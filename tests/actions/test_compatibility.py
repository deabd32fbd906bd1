from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.actions.compatibility import first_choice, incompatible_datasets
from webapp.store.database import make_engine, make_sessions, upgrade


def test_a_labelled_dataset_that_fits_comes_first(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path}/pare.db")
    upgrade(engine)
    with make_sessions(engine)() as session:
        checkpoint = seed_checkpoint(session)
        assert first_choice(session, checkpoint) is None
        unlabelled = seed_dataset(session, "unlabelled.npz")
        unlabelled.facts = unlabelled.facts | {"labels": None}
        images = seed_dataset(session, "images.npz", shape=(3, 32, 32))
        session.commit()
        assert first_choice(session, checkpoint).id == unlabelled.id
        labelled = seed_dataset(session, "labelled.npz")
        assert first_choice(session, checkpoint).id == labelled.id
        reasons = incompatible_datasets(session, checkpoint)
        assert reasons[labelled.id] is None
        assert "images.npz" in reasons[images.id]
    engine.dispose()
