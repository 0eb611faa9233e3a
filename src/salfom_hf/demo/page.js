() => {
    // What screen readers say: Gradio has no alternative text for videos and plots.
    const videos = VIDEOS;
    const plot = PLOT;
    const apply = () => {
        document.querySelectorAll("#path-of-peak .vega-embed").forEach((drawn) => {
            drawn.setAttribute("role", "img");
            drawn.setAttribute("aria-label", plot);
        });
        for (const [id, label] of Object.entries(videos))
            document.querySelectorAll(`#${id} video`).forEach((video) => video.setAttribute("aria-label", label));
        document.querySelectorAll(".words").forEach((words) => words.setAttribute("aria-live", "polite"));
    };
    new MutationObserver(apply).observe(document.body, {childList: true, subtree: true});
    apply();
    // The link to the model's card opens it.
    document.addEventListener("click", (event) => {
        const card = event.target.closest('a[href="#model-card"]') && document.querySelector("#model-card");
        if (!card) return;
        event.preventDefault();
        const button = card.querySelector("button");
        if (!button.classList.contains("open")) button.click();
        button.focus();
        card.scrollIntoView();
    });
}
