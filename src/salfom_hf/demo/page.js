() => {
    // What screen readers say: Gradio has no alternative text for videos.
    const videos = VIDEOS;
    const player = (id) => document.querySelector(`#${id} video`);
    const apply = () => {
        for (const [id, label] of Object.entries(videos))
            document.querySelectorAll(`#${id} video`).forEach((video) => video.setAttribute("aria-label", label));
        document.querySelectorAll("#video-input input[type=file]").forEach((input) => (input.accept = "video/*,image/*"));
        // What a browser cannot play may be a good video: the server says whether it is.
        document.querySelectorAll('[data-testid="toast-body"]').forEach((toast) => {
            if (toast.innerText.includes("Video not playable")) toast.style.display = "none";
        });
        document.querySelectorAll(".words").forEach((words) => words.setAttribute("aria-live", "polite"));
        // Of some, Chromium plays the sound alone.
        const video = player("video-input");
        document.body?.classList.toggle("cannot-play", Boolean(video && (video.error || (video.readyState && !video.videoWidth))));
    };
    // What is chosen goes to the server, which says what it takes: Gradio would refuse what the browser knows no type of, as
    // IMG_0001.MOV on Linux. A photo that comes to the video's tab goes to that of pictures, and a video the other way.
    const types = {"video-input": "video/", "picture-input": "image/"};
    const tabs = {"video-input": "Video", "picture-input": "Picture"};
    const isVideo = (file) => file.type.startsWith("video/") || /\.(3gp|avi|m2ts|m4v|mkv|mov|mp4|mts|webm|wmv)$/i.test(file.name);
    const send = (event) => {
        const file = (event.target.files ?? event.dataTransfer?.files)?.[0];
        const from = event.target.closest?.("#video-input, #picture-input")?.id;
        if (!file || !from || file.type.startsWith(types[from])) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        if (event.type === "drop") event.target.dispatchEvent(new Event("dragleave", {bubbles: true}));
        const to = file.type.startsWith("image/") ? "picture-input" : isVideo(file) ? "video-input" : from;
        let there = to === from;
        const give = () => {
            const wanted = [...document.querySelectorAll('button[role="tab"]')].filter((tab) => tab.innerText.trim() === tabs[to]);
            there ||= wanted.some((tab) => tab.getAttribute("aria-selected") === "true");
            if (!there) wanted.forEach((tab) => tab.click());
            const input = document.querySelector(`#${to} input[type=file]`);
            if (!input) {  // What was chosen there before has its place.
                document.querySelector(`#${to} button[aria-label="Clear"]`)?.click();
                return setTimeout(give, 100);
            }
            const chosen = new DataTransfer();
            chosen.items.add(new File([file], file.name, {type: `${types[to]}*`}));
            input.files = chosen.files;
            input.dispatchEvent(new Event("change", {bubbles: true}));
        };
        give();
    };
    document.addEventListener("change", send, true);
    document.addEventListener("drop", send, true);
    for (const type of ["error", "loadedmetadata"]) document.addEventListener(type, apply, true);
    new MutationObserver(apply).observe(document, {childList: true, subtree: true});
    apply();
    // The upload shows the moment that the overlay shows: the controls of the overlay are those of both.
    const follow = (event) => {
        const overlay = player("video-overlay"), original = player("video-input");
        if (!original || event.target !== overlay) return;
        const moment = overlay.currentTime + Number(document.querySelector("#start input")?.value || 0);
        const tolerance = event.type === "timeupdate" && !overlay.paused ? 0.15 : 0;
        if (Math.abs(original.currentTime - moment) > tolerance) original.currentTime = moment;
        original.muted = true;
        original.playbackRate = overlay.playbackRate;
        if (overlay.paused) original.pause();
        else original.play().catch(() => {});
    };
    for (const type of ["play", "pause", "seeked", "timeupdate", "ratechange"])
        document.addEventListener(type, follow, true);
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
